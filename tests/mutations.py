"""Faults that tests must notice, one a line: what is wrong, where, which text becomes which, and the tests that look there.

``python tests/mutate.py`` tries them one by one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One fault; tests are files after ``tests/test_``, and after ``-k`` what to choose from them."""

    name: str
    file: str
    old: str
    new: str
    tests: str


GRAD, PERTURB, WRAP, ATT = "methods/gradient.py", "methods/perturbation.py", "methods/wrappers.py", "methods/attention.py"
EIGEN, MASK, FULL, PATH, PLUS = (f"methods/{name}.py" for name in ("eigen", "masking", "backprop", "path", "gradient"))
SCORES, CHOICE, DENSE, BOXES, REFERENCE = (
    f"targets/{name}.py" for name in ("scores", "classes", "segmentation", "detection", "embedding")
)
INSIDE, HOOK = "metrics/localization.py", "modules[split_call(name)[0]].register_forward_hook(run.hook(name))"

METHODS = [
    Mutation("activation_mean without its ReLU", "methods/activation.py", "a.relu().mean(1)", "a.mean(1)", "methods -k activation_mean"),
    Mutation("cam of the head's first class", "methods/activation.py", "_class_weights(seen, head)[seen.classes]", "_class_weights(seen, head)[seen.classes * 0]", "methods -k cam"),
    Mutation("cam accepts any pooling", "methods/activation.py", "if not any(bool((", "if not any(bool(True or (", "methods -k refuses"),
    Mutation("grad_cam: sum for mean over space", GRAD, "seen.gradient.flatten(2).mean(2), seen.activation", "seen.gradient.flatten(2).sum(2), seen.activation", "methods -k reference"),
    Mutation("grad_cam: mean for sum over channels", GRAD, '"bc,bc...->b...", w, a)', '"bc,bc...->b...", w, a) / a.shape[1]', "methods -k reference"),
    Mutation("grad_cam: ReLU before the sum", GRAD, 'torch.einsum("bc,bc...->b...", w, a)', 'torch.einsum("bc,bc...->b...", w.relu(), a)', "methods -k reference"),
    Mutation("hires_cam: mean for sum", GRAD, "(seen.gradient * seen.activation).sum(1)", "(seen.gradient * seen.activation).mean(1)", "methods_gradient -k hires"),
    Mutation("grad_cam_elementwise: ReLU behind the sum", GRAD, "(seen.gradient * seen.activation).relu().sum(1)", "(seen.gradient * seen.activation).sum(1).relu()", "methods_gradient -k elementwise"),
    Mutation("layer_cam without its ReLU", GRAD, "seen.gradient.relu() * seen.activation", "seen.gradient * seen.activation", "methods_gradient -k layer_cam"),
    Mutation("x_grad_cam without its division", GRAD, "(g * a).sum(2) / total.where(reliable, 1)", "(g * a).sum(2)", "methods_gradient -k x_grad_cam"),
    Mutation("x_grad_cam divides by rounding", GRAD, "reliable = total.abs() > torch.finfo(a.dtype).eps * a.shape[2] * a.abs().amax(2)", "reliable = total.abs() > -1", "methods_signed -k x_grad or cancelling"),
    Mutation("grad_cam_pp without the activation's sum", PLUS, "below = 2 + g * seen.activation.flatten(2).sum(2, keepdim=True)", "below = 2 + g", "methods_gradient -k pp"),
    Mutation("grad_cam_pp: sum(A g^3) for sum(A) g^3", PLUS, "below = 2 + g * seen.activation.flatten(2).sum(2, keepdim=True)", "below = 2 + (g**3 * seen.activation.flatten(2)).sum(2, keepdim=True) / (g**2).where(g != 0, 1)", "methods_gradient -k pp"),
    Mutation("grad_cam_pp with an epsilon of 1e-6", PLUS, "return (1 / below.where(regular, 1)).where(regular, 0)", "return g**2 / (g**2 * below + 1e-6)", "methods_gradient -k pp"),
    Mutation("grad_cam_pp on its pole", PLUS, "_POLE = 1e-3", "_POLE = 0.0", "methods_signed -k pole"),
    Mutation("grad_cam_pp_normalized: not normalised", PLUS, "(alpha * g.relu()).sum(2) / total.where(reliable, 1)", "(alpha * g.relu()).sum(2)", "methods_gradient -k pp"),
    Mutation("eigen_cam: the last component", EIGEN, "vectors[:, :, -1]", "vectors[:, :, 0]", "methods_gradient -k eigen"),
    Mutation("eigen_grad_cam without the gradient", EIGEN, "x = seen.gradient * seen.activation", "x = seen.activation", "methods_gradient -k eigen_grad"),
    Mutation("seg_eigen_cam: the signed gradient", EIGEN, "seen.gradient.abs() * seen.activation", "seen.gradient * seen.activation", "methods_gradient -k seg_eigen"),
    Mutation("seg_eigen_cam: its sign left to chance", EIGEN, "_signed(heat, strongest.reshape_as(heat))", "heat", "methods_gradient -k seg_eigen"),
    Mutation("sess: windows not weighed", WRAP, " * _confidence(window)[:, None, None]", "", "methods_sliding"),
    Mutation("sess: a mean over all windows", WRAP, "shown + (placed > 0)", "shown + 1", "methods_sliding"),
    Mutation("signs of components left to chance", EIGEN, "torch.where(against.reshape(-1, *[1] * (heat.ndim - 1)), -heat, heat)", "heat", "methods_signed methods_gradient -k sign or eigen"),
    Mutation("kpca_cam: kernel not centred", EIGEN, "_first(k - k.mean(1, keepdim=True) - k.mean(2, keepdim=True) + k.mean((1, 2), keepdim=True))", "_first(k)", "methods_gradient -k kpca"),
    Mutation("fem: one standard deviation", EIGEN, "sigmas: float = 2.0", "sigmas: float = 1.0", "methods_gradient -k fem"),
    Mutation("shapley_cam: the whole curvature", GRAD, "_bend(seen) / 2", "_bend(seen)", "methods_gradient -k shapley"),
    Mutation("full_grad without the biases", FULL, "    for term in of_biases:", "    for term in []:", "methods_gradient methods_full -k full"),
    Mutation("full_grad: batch norm's bias without its mean", FULL, "shift: Tensor = -at_least_float(mean) /", "shift: Tensor = 0 * at_least_float(mean) /", "methods_full -k sum_to_the_score"),
    Mutation("guided_grad_cam not guided", FULL, "gradient.clamp(min=0)", "gradient", "methods_gradient -k guided"),
    Mutation("integrated_grad_cam: the image's gradient alone", PATH, "torch.lerp(start, seen.image, t)", "seen.image", "methods_gradient -k integrated_grad_cam"),
    Mutation("integrated_gradients: end points for midpoints", PATH, "(i + 0.5) / steps", "(i + 1) / steps", "methods_gradient -k integrated_gradients"),
    Mutation("score_cam: sigmoid for softmax", MASK, "scores.softmax(1)", "scores.sigmoid()", "methods_perturbation -k score_cam"),
    Mutation("score_cam: masks not scaled", MASK, "((flat - low) / span.where(span > 0, 1)).reshape(large.shape)", "large", "methods_perturbation -k score_cam or masks"),
    Mutation("score_cam: one chunk for all", MASK, "varying.split(checked(chunk))", "varying.split(max(checked(chunk), 10**6))", "methods_perturbation -k chunks"),
    Mutation("ss_cam without noise", MASK, "_added(sigma * noise)", "_added(0 * noise)", "methods_perturbation -k ss_cam"),
    Mutation("is_cam: factors summed as they go", MASK, "_times((i + 1) / n)", "_times((i + 1) * (i + 2) / 2 / n)", "methods_perturbation -k is_cam"),
    Mutation("ablation_cam: sign of the score", PERTURB, "size = score.abs()", "size = score", "methods_perturbation -k ablation"),
    Mutation("recipro_cam: a place's neighbours stay", PERTURB, ".where((at >= 0) & (at < len(kernel)), 0)", "", "methods_perturbation -k recipro"),
    Mutation("recipro_cam: nothing taken off", PERTURB, "(alone - empty[:, None])", "alone", "methods_perturbation -k recipro"),
    Mutation("random_cam: global randomness", "methods/activation.py", "torch.rand(a.shape[2:], generator=generator, dtype", "torch.rand(a.shape[2:], dtype", "methods_perturbation -k random"),
    Mutation("smooth: noise of another scale", WRAP, "deviation = sigma * (flat.amax(1) - flat.amin(1))", "deviation = sigma * flat.std(1)", "methods_wrap -k smooth"),
    Mutation("flip_average: not mirrored back", WRAP, "mirrored.flip(-1)) / 2", "mirrored) / 2", "methods_wrap -k flip"),
    Mutation("smooth_grad_cam_pp: the mean's square for the squares' mean", WRAP, "alpha = (d2 / below", "alpha = (d1**2 / below", "methods_wrap -k smooth_grad"),
    Mutation("attention_rollout without the residual", ATT, ".mean(1) + identity) / 2", ".mean(1) + 0 * identity) / 2", "attention -k rollout"),
    Mutation("attention_relevance without the ReLU", ATT, "at_least_float(g * p.detach()).relu().mean(1)", "at_least_float(g * p.detach()).mean(1)", "attention -k relevance"),
    Mutation("le_grad: times attention", ATT, "at_least_float(g).relu().mean((1, 2)) for g in", "at_least_float(g).mean((1, 2)) for g in", "attention -k le_grad"),
    Mutation("grad_eclip without the likeness of keys", ATT, " * _unit_range(_cosine(q[:, read], k, attention))[..., None]", "", "attention -k eclip"),
]  # fmt: skip

TARGETS = [
    Mutation("label: argmax instead", CHOICE, "    return label\n", "    return logits.argmax(1)\n", "targets batch explain lightning"),
    Mutation("predicted: the least likely", CHOICE, "class_logits(logits).argmax(1)", "class_logits(logits).argmin(1)", "explain targets"),
    Mutation("runner_up: the first", CHOICE, ".indices[:, 1]", ".indices[:, 0]", "targets -k runner"),
    Mutation("top_k: the least likely", CHOICE, "logits.shape[1]), dim=1).indices", "logits.shape[1]), dim=1, largest=False).indices", "explain targets"),
    Mutation("positives: absent ones explained", CHOICE, "first.masked_fill(~set_.gather(1, first), -1)", "first", "targets -k positive or absent"),
    Mutation("softmax for the logit", "targets/logits.py", "score = logits.gather(1,", "score = logits.softmax(1).gather(1,", "methods -k reference"),
    Mutation("log_probability: the probability", SCORES, "lambda z: z.log_softmax(1)", "lambda z: z.softmax(1)", "targets -k log_prob"),
    Mutation("softmax_probability: its logarithm", SCORES, "lambda z: z.softmax(1)", "lambda z: z.log_softmax(1)", "targets -k probability"),
    Mutation("counterfactual: for the class", SCORES, "torch.neg)", "torch.clone)", "targets -k counterfactual"),
    Mutation("contrast: the sum of look-alikes", SCORES, "counts.sum(-1, keepdim=True).clamp(min=1)", "1", "targets -k finer or look"),
    Mutation("rivals: the class itself among them", SCORES, "closeness.scatter(-1, c.clamp(min=0)[..., None], -torch.inf)", "closeness", "targets -k rivals or look"),
    Mutation("binary: never signed", SCORES, "sign = said.to(logits.dtype) * 2 - 1", "sign = said.to(logits.dtype) * 0 + 1", "targets -k single"),
    Mutation("value: no reference", SCORES, "return y - less", "return y", "targets -k regression"),
    Mutation("segment: everywhere", DENSE, "region = ground == own if", "region = ground == ground if", "targets -k segmentation"),
    Mutation("segment: the background chosen", DENSE, ".clamp(max=0.5)", "", "targets -k segmentation"),
    Mutation("detection: a box of any class", BOXES, "(one[\"labels\"] == c) & ", "", "targets -k box"),
    Mutation("detection: without the overlap", BOXES, "match = (one[\"scores\"] + overlap)", "match = one[\"scores\"]", "targets -k box"),
    Mutation("similarity: the reference moves", REFERENCE, "if self.reference is None:", "if not self.given:", "targets -k frozen"),
    Mutation("projection: not by the reference's length", REFERENCE, "torch.nn.functional.normalize(r, dim=1)", "r", "targets -k reference"),
    Mutation("a choice moves when an image is changed", "targets/target.py", "same = replace(", "same = ask(target, other, rows(label), lambda: None) or replace(", "targets -k kept"),
]  # fmt: skip

ENGINE = [
    Mutation("train-mode batch norm", "no_trace.py", "module.training = False", "pass", "methods -k batch_norm"),
    Mutation("detached copy before an in-place ReLU", "capture/hooks.py", "LayerOutput(handed, ", "LayerOutput(output, ", "methods -k in_place"),
    Mutation("leaf without clone", "capture/hooks.py", "handed: Tensor = output.clone()", "handed: Tensor = output", "methods -k in_place"),
    Mutation("a place of the picture mirrored", WRAP, "if seen.look.aim.placed:", "if False:", "detection -k moves"),
    Mutation("a detector given one image for many changes", "capture/hooks.py", "if activation is not None and is_detections(look.output):", "if False:", "detection -k one_by_one"),
    Mutation("the coarsest map is the last", "model/default_layer.py", "fewest = min(cells.values()", "fewest = max(cells.values()", "families -k u_net"),
    Mutation("the backbone's pyramid passed over", "model/default_layer.py", "stages = [i for i in backbone if i < pyramid]", "stages = backbone", "families -k detector"),
    Mutation("concepts: a start forgotten", "concepts.py", "    if start is not None:\n        h = start", "    if False:\n        h = start", "concepts -k start"),
    Mutation("hooks left behind", "capture/hooks.py", f"undo.callback({HOOK}.remove)", HOOK, "explain"),
    Mutation("randomness left moved", "no_trace.py", "torch.set_rng_state(cpu)", "pass", "no_trace"),
    Mutation("randomness left moved after an error", "no_trace.py", "        yield\n    finally:\n        random.setstate(python)", "        yield\n    except Exception:\n        raise\n    else:\n        random.setstate(python)", "faults explain no_trace"),
    Mutation("modes left changed", "no_trace.py", "module.training = flag", "pass", "explain no_trace"),
    Mutation("backward for grad", "capture/gradient.py", "    found = torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph, allow_unused=True)",
             "    total.backward(retain_graph=True, create_graph=True)\n    found = torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph, allow_unused=True)", "explain no_trace"),
    Mutation("prefix token taken for a patch", "model/layout.py", "maps[:, :, self.prefix :]", "maps[:, :, : maps.shape[2] - self.prefix]", "families -k patches"),
    Mutation("tokens on a turned grid", "model/layout.py", "grids.append((u, patches // u))", "grids.append((patches // u, u))", "families -k aspect"),
    Mutation("channels last read as first", "model/layout.py", "if _skew(sides, first) > _SKEW >= _skew(sides, last) and math.prod(last) > 1:", "if False:", "families -k swin or convnext"),
    Mutation("the default layer is the last, whatever it feeds", "model/traced_forward.py", "return gradient is not None and bool(layout.to_map(gradient).any())", "return True", "families -k patches"),
    Mutation("queries and keys read as pictures", "model/trace.py", "if is_split_tokens(", "if not is_split_tokens and (", "default_layer"),
    Mutation("a part of an attention watched", "model/default_layer.py", "if i not in forward.attention_parts", "if True", "default_layer"),
    Mutation("an error within a model's forward reworded", "model/call.py", "signature.bind(None)", "signature.bind()", "call"),
    Mutation("loader position for dataset index", "data/loader.py", "collated = source.collate([data[i] for i in indices])", "collated = next(iter(source.loader))", "batch"),
    Mutation("maps of several layers scaled after fusing", "methods/fusion.py", "shares = large / peak.where(peak > 0, 1)", "shares = large", "fuse"),
    Mutation("fusion mean: sum", "methods/fusion.py", "return shares.mean(0)", "return shares.sum(0)", "fuse"),
    Mutation("fusion max: min", "methods/fusion.py", "return shares.amax(0)", "return shares.amin(0)", "fuse"),
    Mutation("fusion tanh_max: weak evidence not lifted", "methods/fusion.py", "torch.tanh(gamma * shares)", "torch.tanh(shares)", "fuse"),
    Mutation("fusion product: sum", "methods/fusion.py", "return shares.prod(0)", "return shares.sum(0)", "fuse"),
    Mutation("concepts: the activation not rectified", "concepts.py", "a = seen.activation.relu()", "a = seen.activation.abs()", "concepts"),
    Mutation("concepts: weakest first", "concepts.py", "argsort(descending=True, stable=True)\n    return w", "argsort(stable=True)\n    return w", "concepts"),
]  # fmt: skip

SHOWN = [
    Mutation("swap height and width of boxes", "data/regions.py", "x0, y0, x1, y1 =", "y0, x0, y1, x1 =", "metrics"),
    Mutation("inclusive box ends", "data/regions.py", "(x < x1)", "(x < x1 + 1)", "metrics"),
    Mutation("energy_inside of the signed map", INSIDE, "heat.relu()", "heat", "metrics"),
    Mutation("energy_inside: NaN counted as nothing inside", INSIDE, "share.isfinite(), torch.nan)", "share.isfinite(), 0)", "metrics"),
    Mutation("swap height and width", "render/overlay.py", "return resize(unit, size)", "return resize(unit, size[::-1])", "render"),
    Mutation("align corners", "heat.py", "align_corners=False", "align_corners=True", "render"),
    Mutation("nearest for bilinear", "heat.py", "mode=_LINEAR[sides], align_corners=False", 'mode="nearest"', "render"),
    Mutation("BGR for RGB", "render/colormap.py", "bgr[:, 0, ::-1]", "bgr[:, 0, :]", "render"),
    Mutation("colour table reversed", "render/colormap.py", "np.arange(256, dtype", "np.arange(255, -1, -1, dtype", "render"),
    Mutation("wrong order in the grid", "figures/sheet.py", "reshape(rows, columns, ", "reshape(columns, rows, ", "render"),
    Mutation("filmstrip: samples for moments", "figures/filmstrip.py", ".permute(2, 1, 3, 0, 4)", ".permute(2, 0, 3, 1, 4)", "render"),
    Mutation("filmstrip: an epoch too many", "training/schedule.py", "trainer.fit_loop.batch_idx + 1", "trainer.fit_loop.batch_idx + 1 + total", "lightning history"),
    Mutation("caption: a sample late", "figures/captions.py", "_caption(batch, batch.names[i // t] if", "_caption(batch, batch.names[i // t - 1] if", "lightning batch volumes"),
    Mutation("step off by one", "training/schedule.py", "return int(stepped) - (1 if trainer.training else 0)", "return int(stepped) + 1", "lightning"),
    Mutation("signed maps not centred at zero", "heat.py", "return -most, most", "return low, high", "render"),
    Mutation("an absent target drawn as zeros", "methods/apply.py", "if look.aim.absent is not None:", "if False:", "targets volumes"),
]  # fmt: skip

MUTATIONS = [*METHODS, *TARGETS, *ENGINE, *SHOWN]
