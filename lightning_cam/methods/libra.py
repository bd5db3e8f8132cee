"""LibraGrad: any method that reads a gradient, with a backward in which nothing is counted twice. b batch, m map."""

from jaxtyping import Float
from torch import Tensor

from lightning_cam.capture.seen import Seen
from lightning_cam.methods.wrappers import Method
from lightning_cam.registry import METHODS


@METHODS.wrapper
def libra(method: Method) -> Method:
    """LibraGrad of any method that reads a gradient: the forward as it is, the backward of a transformer made complete.

    ``sum A dS/dA + sum_b b dS/db = S``, with b the biases behind the layer, holds in a net of ReLUs and fails in a
    transformer, which multiplies its features by functions of themselves. Held constant in the backward, these leave steps
    that are locally affine: attention, ``softmax(q k) v``, passes its gradient to the values alone; GELU and SiLU,
    ``x g(x)``, as if g(x) were a number, and so does any gate, such as that of squeeze-and-excitation; a norm,
    ``(x - mean(x)) / std``, as if std were one. A product of two linear features, as in SwiGLU, gives one half to each.

    Biases are those of linear layers, convolutions and norms (of batch norm the implicit one), and tokens and positions that
    are added; nothing of queries and keys. What the model itself detaches is constant too. The sum holds at the image, and
    at layers that all of the score passes through, such as a block; the first norm of a block has a residual path beside it,
    whose share is missing there. On nets of ReLU, pooling and batch norm it is the method, bit for bit.

    A function without a rule (tanh or a softmax as an activation, a division by features, a matrix product of features other
    than attention, a kernel of its own) is refused where a gradient meets it; so are methods that read attention itself.

    Cost: the method's, and a forward. Source: Mehri et al., CVPR 2025, arXiv 2411.16760. That of a product the factor which
    is not linear is held constant, whatever it is, is their rules in one.

    Args:
        method: what reads the gradient.

    Raises:
        ValueError: for a function without a rule, named with its module, for a method that reads attention, and for gradient
            checkpointing.

    Example:
        >>> from lightning_cam import explain
        >>> conv, head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 5)
        >>> model = torch.nn.Sequential(conv, torch.nn.GELU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
        >>> explain(model, torch.rand(2, 3, 16, 12), layer="0", method={"libra": {"method": "hires_cam"}}).heat.shape
        torch.Size([2, 4, 3])
    """

    def balanced(seen: Seen) -> Float[Tensor, "b *m"]:
        return method(seen.balanced)

    return balanced
