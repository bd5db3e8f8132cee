"""The rules of a balanced backward, by the name of the function: linear as it is, a gate held constant, or refused.

``x . dS/dx`` plus the biases' share is conserved by what is locally affine. A product of two tensors would count twice: a
gate, whatever is known not to be linear, is held constant, and what it multiplies takes all of the gradient.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.capture.balance import norms
from lightning_cam.capture.balance.operation import Operation, Taint, forbid, mark, nodes_of, replaced, taint_of, tensors_in
from lightning_cam.capture.gradient import at_least_float

# linear, or affine piece by piece, in all their tensors at once
_LINEAR = """
    T mT H mH real imag to type type_as float double half bfloat16 cuda cpu clone contiguous positive alias copy to_copy
    requires_grad view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze expand expand_as broadcast_to
    broadcast_tensors repeat repeat_interleave tile permute transpose t adjoint movedim moveaxis swapaxes swapdims flip fliplr
    flipud rot90 roll view_as_real view_as_complex as_strided narrow select getitem setitem index_select index_put index_fill
    index_add index_copy gather scatter scatter_add masked_fill masked_select masked_scatter take take_along_dim where fill
    zero select_scatter slice_scatter chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind cat concat
    concatenate stack hstack vstack dstack column_stack unfold fold im2col col2im pixel_shuffle pixel_unshuffle
    channel_shuffle pad constant_pad_nd add sub subtract rsub neg negative abs absolute sum mean nansum nanmean cumsum diff
    trace diag diagonal diag_embed tril triu sum_to_size nan_to_num dropout dropout1d dropout2d dropout3d alpha_dropout
    feature_dropout feature_alpha_dropout relu relu6 leaky_relu rrelu hardtanh threshold hardshrink softshrink clamp clip
    clamp_min clamp_max max min amax amin aminmax maximum minimum fmax fmin cummax cummin topk sort kthvalue median nanmedian
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample
"""
# linear in any one of their tensors while the others are constant
_LINEAR_IN_ONE = """
    linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution prelu
    addmm addmv addbmm baddbmm addcmul
"""
_PRODUCTS = "mul multiply matmul mm bmm mv dot inner outer einsum tensordot kron"
# known not to be linear, and used to multiply what is
_GATES = """
    softmax sigmoid hardsigmoid tanh softplus exp erf sqrt rsqrt var std norm linalg_norm linalg_vector_norm float_power
"""
# x g(x), each with g(0)
_GATED = {"gelu": 0.5, "silu": 0.5, "hardswish": 0.5, "mish": 0.6}


def apply_rule(operation: Operation) -> Any:
    """What the function returns, in the forward as ever, in the backward by its rule."""
    result = _RULES.get(operation.name, _refused)(operation)
    mark(result, operation.taint)
    return result


def is_linear(name: str) -> bool:
    """Whether a function is run as it is, whatever its tensors are."""
    return _RULES.get(name) is Operation.run


def _refused(op: Operation) -> Any:
    return _tainted(op, gate=False)


def _gate(op: Operation) -> Any:
    return _tainted(op, gate=True)


def _tainted(op: Operation, gate: bool) -> Any:
    result = op.run()
    # most of what has no rule only asks: for a shape, a type
    if nodes_of(result):
        forbid(result, Taint(op.name, op.module, gate))
    return result


def _of_one(rule: Callable[[Operation], Any]) -> Callable[[Operation], Any]:
    """A rule for functions whose other tensors are constant."""

    def checked(op: Operation) -> Any:
        if len(op.sources) > 1:
            return _refused(op)
        return rule(op)

    return checked


def _product(op: Operation) -> Any:
    """Gates are constant; two linear factors, ``a b``, take one half of the gradient each."""
    linear = [source for source in op.sources if taint_of(source) is None]
    if op.taint and not op.taint.gate:
        return op.run()
    if not linear:
        return _gate_of_constants(op)
    if len(linear) == 1:
        result = op.run(lambda tensor: tensor if taint_of(tensor) is None else tensor.detach())
    elif len(op.sources) == 2 and op.name in ("mul", "multiply"):
        result = op.run(lambda tensor: replaced(tensor / 2, tensor.detach()))
    else:
        return _refused(op)
    mark(result, None)
    return result


def _gate_of_constants(op: Operation) -> Any:
    """Gates alone, with what does not depend on the layer; a weight only scales them, and a target may choose by a mask."""
    result = op.run()
    if op.module == "the target":
        return result
    others = [x for x in tensors_in((op.args, op.kwargs)) if not any(x is source for source in op.sources)]
    if op.taint and any(x.numel() > 1 and not isinstance(x, nn.Parameter) for x in others):
        forbid(result, replace(op.taint, of_constants=True))
    return result


def _division(op: Operation) -> Any:
    """As a product, where the divisor is a gate: the length of a vector, the deviation of a norm."""
    options = op.options("input other")
    by_linear = any(source is options["other"] and taint_of(source) is None for source in op.sources)
    if by_linear or options.get("rounding_mode"):
        return _refused(op)
    return _product(op)


def _reciprocal(op: Operation) -> Any:
    if op.taint is None:
        return _refused(op)
    return op.run()


def _power(op: Operation) -> Any:
    """A square is x times the gate x; any other power is a gate."""
    options = op.options("input exponent")
    x = options["input"]
    exponent = 2 if op.name == "square" else options["exponent"]
    if isinstance(exponent, Tensor) or exponent != 2:
        return _of_one(_gate)(op)
    return replaced(x * x.detach(), op.value())


def _gated(op: Operation) -> Tensor:
    """``x g(x)`` with the gate g constant: GELU, SiLU and their like."""
    (x,) = op.sources
    value = op.value()
    with torch.no_grad():
        wide = at_least_float(x)
        gate = (at_least_float(value) / wide).where(wide != 0, _GATED[op.name])
    return replaced(x * gate, value)


def _glu(op: Operation) -> Tensor:
    """``a sigmoid(b)`` of the halves a and b of a tensor."""
    options = op.options("input dim")
    axis = -1 if options["dim"] is None else options["dim"]
    a, b = options["input"].chunk(2, axis)
    return replaced(a * b.detach().sigmoid(), op.value())


def _variance_and_mean(op: Operation) -> tuple[Tensor, Tensor]:
    """The mean is linear, and the deviation a gate."""
    deviation, mean = op.run()
    # both come of one node of the graph: copies can be marked for themselves
    deviation = deviation.clone()
    forbid(deviation, Taint(op.name, op.module, gate=True))
    options = op.options("input dim")
    x = options["input"]
    axes = options["dim"]
    if isinstance(axes, bool):  # without axes, what comes second is whether it is unbiased
        axes = None
    return deviation, replaced(x.mean(axes, keepdim=mean.ndim == x.ndim), mean.detach())


def _attention(op: Operation) -> Tensor:
    """``softmax(q k) v``: a product whose gate is never seen."""
    options = {name: x for name, x in op.options("query key value attn_mask dropout_p is_causal").items() if x is not None}
    value = options["value"]
    if not any(source is value for source in op.sources):
        result: Tensor = op.run()
        forbid(result, Taint(op.name, op.module, gate=True, of_constants=True))
        return result
    for name in {"query", "key", "attn_mask"} & set(options):
        options[name] = options[name].detach()
    result = op.function(**options)
    mark(result, taint_of(value))
    return result


def _batch_norm(op: Operation) -> Any:
    """Linear, but for one that goes by the batch it is given."""
    if op.options("input weight bias running_mean running_var training")["training"]:
        return _refused(op)
    return op.run()


_RULES: dict[str, Callable[[Operation], Any]] = {
    **dict.fromkeys(_LINEAR.split(), Operation.run),
    **dict.fromkeys(_LINEAR_IN_ONE.split(), _of_one(Operation.run)),
    **dict.fromkeys(_PRODUCTS.split(), _product),
    **dict.fromkeys(_GATES.split(), _gate),
    **dict.fromkeys(_GATED, _gated),
    **dict.fromkeys(["div", "divide", "true_divide", "truediv"], _division),
    **dict.fromkeys(["pow", "square"], _power),
    **dict.fromkeys(["var_mean", "std_mean"], _variance_and_mean),
    "reciprocal": _reciprocal,
    "glu": _glu,
    "scaled_dot_product_attention": _attention,
    "batch_norm": _of_one(_batch_norm),
    "layer_norm": _of_one(norms.layer_norm),
    "rms_norm": _of_one(norms.rms_norm),
    "group_norm": _of_one(norms.group_norm),
    "instance_norm": _of_one(norms.instance_norm),
    "cosine_similarity": _of_one(norms.cosine_similarity),
}
