"""Faults that tests must notice, one a line: what is wrong, where, which text becomes which, and the tests that look there.

``python tests/mutate.py`` tries them one by one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One fault; tests are files in ``tests/``, and after ``-k`` what to choose from them."""

    name: str
    file: str
    old: str
    new: str
    tests: str


METHODS = [
    Mutation("activation_mean without its ReLU", "methods/activation.py", "a.relu().mean(1)", "a.mean(1)", "methods/test_methods.py -k activation_mean"),
    Mutation("cam of the head's first class", "methods/activation.py", "_class_weights(seen, head)[seen.classes]", "_class_weights(seen, head)[seen.classes * 0]", "methods/test_methods.py -k cam"),
    Mutation("cam accepts any pooling", "methods/activation.py", "if not any(bool((", "if not any(bool(True or (", "methods/test_methods.py -k refuses"),
    Mutation("grad_cam: sum for mean over space", "methods/gradient.py", "seen.gradient.flatten(2).mean(2), seen.activation", "seen.gradient.flatten(2).sum(2), seen.activation", "methods/test_methods.py -k reference"),
    Mutation("grad_cam: mean for sum over channels", "methods/gradient.py", '"bc,bc...->b...", w, a)', '"bc,bc...->b...", w, a) / a.shape[1]', "methods/test_methods.py -k reference"),
    Mutation("grad_cam: ReLU before the sum", "methods/gradient.py", 'torch.einsum("bc,bc...->b...", w, a)', 'torch.einsum("bc,bc...->b...", w.relu(), a)', "methods/test_methods.py -k reference"),
    Mutation("hires_cam: mean for sum", "methods/gradient.py", "(seen.gradient * seen.activation).sum(1)", "(seen.gradient * seen.activation).mean(1)", "methods/test_gradient.py -k hires"),
    Mutation("grad_cam_elementwise: ReLU behind the sum", "methods/gradient.py", "(seen.gradient * seen.activation).relu().sum(1)", "(seen.gradient * seen.activation).sum(1).relu()", "methods/test_gradient.py -k elementwise"),
    Mutation("layer_cam without its ReLU", "methods/gradient.py", "seen.gradient.relu() * seen.activation", "seen.gradient * seen.activation", "methods/test_gradient.py -k layer_cam"),
    Mutation("x_grad_cam without its division", "methods/gradient.py", "(g * a).sum(2) / total.where(reliable, 1)", "(g * a).sum(2)", "methods/test_gradient.py -k x_grad_cam"),
    Mutation("x_grad_cam divides by rounding", "methods/gradient.py", "reliable = total.abs() > torch.finfo(a.dtype).eps * a.shape[2] * a.abs().amax(2)", "reliable = total.abs() > -1", "methods/test_signed.py -k x_grad or cancelling"),
    Mutation("grad_cam_pp without the activation's sum", "methods/gradient.py", "below = 2 + g * seen.activation.flatten(2).sum(2, keepdim=True)", "below = 2 + g", "methods/test_gradient.py -k pp"),
    Mutation("grad_cam_pp: sum(A g^3) for sum(A) g^3", "methods/gradient.py", "below = 2 + g * seen.activation.flatten(2).sum(2, keepdim=True)", "below = 2 + (g**3 * seen.activation.flatten(2)).sum(2, keepdim=True) / (g**2).where(g != 0, 1)", "methods/test_gradient.py -k pp"),
    Mutation("grad_cam_pp with an epsilon of 1e-6", "methods/gradient.py", "return (1 / below.where(regular, 1)).where(regular, 0)", "return g**2 / (g**2 * below + 1e-6)", "methods/test_gradient.py -k pp"),
    Mutation("grad_cam_pp on its pole", "methods/gradient.py", "_POLE = 1e-3", "_POLE = 0.0", "methods/test_signed.py -k pole"),
    Mutation("grad_cam_pp_normalized: not normalised", "methods/gradient.py", "(alpha * g.relu()).sum(2) / total.where(reliable, 1)", "(alpha * g.relu()).sum(2)", "methods/test_gradient.py -k pp"),
    Mutation("eigen_cam: the last component", "methods/eigen.py", "vectors[:, :, -1]", "vectors[:, :, 0]", "methods/test_gradient.py -k eigen"),
    Mutation("eigen_grad_cam without the gradient", "methods/eigen.py", "x = seen.gradient * seen.activation", "x = seen.activation", "methods/test_gradient.py -k eigen_grad"),
    Mutation("seg_eigen_cam: the signed gradient", "methods/eigen.py", "seen.gradient.abs() * seen.activation", "seen.gradient * seen.activation", "methods/test_gradient.py -k seg_eigen"),
    Mutation("seg_eigen_cam: its sign left to chance", "methods/eigen.py", "_signed(heat, strongest.reshape_as(heat))", "heat", "methods/test_gradient.py -k seg_eigen"),
    Mutation("sess: windows not weighed", "methods/wrappers.py", " * _confidence(window)[:, None, None]", "", "methods/test_sliding.py"),
    Mutation("sess: a mean over all windows", "methods/wrappers.py", "shown + (placed > 0)", "shown + 1", "methods/test_sliding.py"),
    Mutation("signs of components left to chance", "methods/eigen.py", "torch.where(against.reshape(-1, *[1] * (heat.ndim - 1)), -heat, heat)", "heat", "methods/test_signed.py methods/test_gradient.py -k sign or eigen"),
    Mutation("kpca_cam: kernel not centred", "methods/eigen.py", "_first(k - k.mean(1, keepdim=True) - k.mean(2, keepdim=True) + k.mean((1, 2), keepdim=True))", "_first(k)", "methods/test_gradient.py -k kpca"),
    Mutation("fem: one standard deviation", "methods/eigen.py", "sigmas: float = 2.0", "sigmas: float = 1.0", "methods/test_gradient.py -k fem"),
    Mutation("shapley_cam: the whole curvature", "methods/gradient.py", "_curvature(seen) / 2", "_curvature(seen)", "methods/test_gradient.py -k shapley"),
    Mutation("full_grad without the biases", "methods/backprop.py", "    for term in of_biases:", "    for term in []:", "methods/test_gradient.py methods/test_backprop.py -k full"),
    Mutation("full_grad: batch norm's bias without its mean", "methods/backprop.py", "shift: Tensor = -at_least_float(mean) /", "shift: Tensor = 0 * at_least_float(mean) /", "methods/test_backprop.py -k sum_to_the_score"),
    Mutation("guided_grad_cam not guided", "methods/backprop.py", "gradient.clamp(min=0)", "gradient", "methods/test_gradient.py -k guided"),
    Mutation("integrated_grad_cam: the image's gradient alone", "methods/path.py", "torch.lerp(start, seen.image, t)", "seen.image", "methods/test_gradient.py -k integrated_grad_cam"),
    Mutation("integrated_gradients: end points for midpoints", "methods/path.py", "(i + 0.5) / steps", "(i + 1) / steps", "methods/test_gradient.py -k integrated_gradients"),
    Mutation("score_cam: sigmoid for softmax", "methods/perturbation/masking.py", "scores.softmax(1)", "scores.sigmoid()", "methods/test_perturbation.py -k score_cam"),
    Mutation("score_cam: masks not scaled", "methods/perturbation/masking.py", "min_max(resize(a, size))", "resize(a, size)", "methods/test_perturbation.py -k score_cam or masks"),
    Mutation("score_cam: one chunk for all", "methods/perturbation/masking.py", "varying.split(checked(chunk))", "varying.split(max(checked(chunk), 10**6))", "methods/test_perturbation.py -k chunks"),
    Mutation("ss_cam without noise", "methods/perturbation/masking.py", "with_noise(sigma * noise)", "with_noise(0 * noise)", "methods/test_perturbation.py -k ss_cam"),
    Mutation("is_cam: factors summed as they go", "methods/perturbation/masking.py", "faded((i + 1) / n)", "faded((i + 1) * (i + 2) / 2 / n)", "methods/test_perturbation.py -k is_cam"),
    Mutation("ablation_cam: sign of the score", "methods/perturbation/layer.py", "size = score.abs()", "size = score", "methods/test_perturbation.py -k ablation"),
    Mutation("recipro_cam: a place's neighbours stay", "methods/perturbation/layer.py", ".where(within, 0)", "", "methods/test_perturbation.py -k recipro"),
    Mutation("recipro_cam: nothing taken off", "methods/perturbation/layer.py", "(single - empty[:, None])", "single", "methods/test_perturbation.py -k recipro"),
    Mutation("random_cam: global randomness", "methods/activation.py", "torch.rand(a.shape[2:], generator=generator, dtype", "torch.rand(a.shape[2:], dtype", "methods/test_perturbation.py -k random"),
    Mutation("smooth: noise of another scale", "methods/wrappers.py", "deviation = sigma * (flat.amax(1) - flat.amin(1))", "deviation = sigma * flat.std(1)", "methods/test_wrappers.py -k smooth"),
    Mutation("flip_average: not mirrored back", "methods/wrappers.py", "mirrored.flip(-1)) / 2", "mirrored) / 2", "methods/test_wrappers.py -k flip"),
    Mutation("smooth_grad_cam_pp: the mean's square for the squares' mean", "methods/wrappers.py", "alpha = (d2 / below", "alpha = (d1**2 / below", "methods/test_wrappers.py -k smooth_grad"),
    Mutation("attention_rollout without the residual", "methods/attention.py", ".mean(1) + identity) / 2", ".mean(1) + 0 * identity) / 2", "methods/test_attention.py -k rollout"),
    Mutation("attention_relevance without the ReLU", "methods/attention.py", "at_least_float(g * p.detach()).relu().mean(1)", "at_least_float(g * p.detach()).mean(1)", "methods/test_attention.py -k relevance"),
    Mutation("le_grad: times attention", "methods/attention.py", "at_least_float(g).relu().mean((1, 2)) for g in", "at_least_float(g).mean((1, 2)) for g in", "methods/test_attention.py -k le_grad"),
    Mutation("grad_eclip without the likeness of keys", "methods/attention.py", " * likeness[..., None]", "", "methods/test_attention.py -k eclip"),
]  # fmt: skip

TARGETS = [
    Mutation("label: argmax instead", "targets/classes.py", '    return label\n', '    return logits.argmax(1)\n', "promises/test_mistakes.py -k label"),
    Mutation("predicted: the least likely", "targets/classes.py", "class_logits(logits).argmax(1)", "class_logits(logits).argmin(1)", "test_explain.py targets/test_targets.py"),
    Mutation("runner_up: the first", "targets/classes.py", ".indices[:, 1]", ".indices[:, 0]", "targets/test_targets.py -k runner"),
    Mutation("top_k: the least likely", "targets/classes.py", "logits.shape[1]), dim=1).indices", "logits.shape[1]), dim=1, largest=False).indices", "test_explain.py targets/test_targets.py"),
    Mutation("positives: absent ones explained", "targets/classes.py", "first.masked_fill(~is_set.gather(1, first), -1)", "first", "targets/test_targets.py -k positive or absent"),
    Mutation("softmax for the logit", "targets/logits.py", "output.gather(1,", "output.softmax(1).gather(1,", "methods/test_methods.py -k reference"),
    Mutation("log_probability: the probability", "targets/scores.py", "lambda z: z.log_softmax(1)", "lambda z: z.softmax(1)", "targets/test_scores.py -k log_prob"),
    Mutation("softmax_probability: its logarithm", "targets/scores.py", "lambda z: z.softmax(1)", "lambda z: z.log_softmax(1)", "targets/test_scores.py -k probability"),
    Mutation("counterfactual: for the class", "targets/scores.py", "torch.neg, classes", "torch.clone, classes", "targets/test_scores.py -k counterfactual"),
    Mutation("contrast: the sum of look-alikes", "targets/contrast.py", "counts.sum(-1, keepdim=True).clamp(min=1)", "1", "targets/test_scores.py -k finer or look"),
    Mutation("rivals: the class itself among them", "targets/contrast.py", "closeness.scatter(-1, classes.clamp(min=0)[..., None], -torch.inf)", "closeness", "targets/test_scores.py -k rivals or look"),
    Mutation("binary: never signed", "targets/scores.py", "sign = positive.to(output.dtype) * 2 - 1", "sign = positive.to(output.dtype) * 0 + 1", "targets/test_scores.py -k single"),
    Mutation("value: no reference", "targets/scores.py", "difference: Tensor = self._values(output) - reference", "difference: Tensor = self._values(output)", "targets/test_scores.py -k regression"),
    Mutation("segment: everywhere", "targets/segmentation.py", "region = class_map == classes.reshape(", "region = class_map == class_map + 0 * classes.reshape(", "targets/test_places.py -k segmentation"),
    Mutation("segment: the background chosen", "targets/segmentation.py", ".clamp(max=0.5)", "", "targets/test_places.py -k segmentation"),
    Mutation("detection: a box of any class", "targets/detection.py", '(sample["labels"] == class_id) & ', "", "targets/test_places.py -k box"),
    Mutation("detection: without the overlap", "targets/detection.py", 'match = (sample["scores"] + overlap)', 'match = sample["scores"]', "targets/test_places.py -k box"),
    Mutation("similarity: the reference moves", "targets/embedding.py", "if self.reference is None:", "if not self.handed_in:", "targets/test_places.py -k frozen"),
    Mutation("projection: not by the reference's length", "targets/embedding.py", "torch.nn.functional.normalize(r, dim=1)", "r", "targets/test_places.py -k reference"),
    Mutation("a choice moves when an image is changed", "targets/target.py", "return masked_score(self.target, output, self.choice.rows(samples, n))", "return masked_score(self.target, output, self.target.choose(output, None, None))", "targets/test_targets.py -k kept"),
]  # fmt: skip

ENGINE = [
    Mutation("train-mode batch norm", "no_trace.py", "module.training = False", "pass", "methods/test_methods.py -k batch_norm"),
    Mutation("detached copy before an in-place ReLU", "capture/hooks.py", "LayerOutput(passed_on, layout", "LayerOutput(output, layout", "methods/test_methods.py -k in_place"),
    Mutation("leaf without clone", "capture/hooks.py", "passed_on: Tensor = output.clone()", "passed_on: Tensor = output", "methods/test_methods.py -k in_place"),
    Mutation("a place of the picture mirrored", "methods/wrappers.py", "if seen.forward.target_scores.choice.placed:", "if False:", "targets/test_detection.py -k moves"),
    Mutation("a detector given one image for many changes", "capture/forward.py", "if is_detections(self.output):", "if False:", "targets/test_detection.py -k one_by_one"),
    Mutation("the coarsest map is the last", "model/default_layer.py", "fewest = min(cells.values()", "fewest = max(cells.values()", "model/test_families.py -k u_net"),
    Mutation("the backbone's pyramid passed over", "model/default_layer.py", "stages = [i for i in backbone if i < pyramid]", "stages = backbone", "model/test_families.py -k detector"),
    Mutation("concepts: a start forgotten", "concepts.py", '    if start is not None:\n        h = start', '    if False:\n        h = start', "test_concepts.py -k start"),
    Mutation("hooks left behind", "capture/hooks.py", "undo.callback(module.register_forward_hook(self._hook(layer)).remove)", "module.register_forward_hook(self._hook(layer))", "test_explain.py"),
    Mutation("randomness left moved", "no_trace.py", "torch.set_rng_state(cpu)", "pass", "promises/test_no_trace.py"),
    Mutation("randomness left moved after an error", "no_trace.py", '        yield\n    finally:\n        random.setstate(python)', '        yield\n    except Exception:\n        raise\n    else:\n        random.setstate(python)', "promises/test_faults.py test_explain.py promises/test_no_trace.py"),
    Mutation("modes left changed", "no_trace.py", "module.training = flag", "pass", "test_explain.py promises/test_no_trace.py"),
    Mutation("backward for grad", "capture/gradient.py", "    gradients = torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph, allow_unused=True)", '    total.backward(retain_graph=True, create_graph=True)\n    gradients = torch.autograd.grad(total, inputs, retain_graph=True, create_graph=create_graph, allow_unused=True)', "test_explain.py promises/test_no_trace.py"),
    Mutation("prefix token taken for a patch", "model/layout.py", "maps[:, :, self.prefix :]", "maps[:, :, : maps.shape[2] - self.prefix]", "model/test_families.py -k patches"),
    Mutation("tokens on a turned grid", "model/layout.py", "grids.append((u, patches // u))", "grids.append((patches // u, u))", "model/test_families.py -k aspect"),
    Mutation("channels last read as first", "model/layout.py", "if _skew(sides, first) > _SKEW >= _skew(sides, last) and math.prod(last) > 1:", "if False:", "model/test_families.py -k swin or convnext"),
    Mutation("the default layer is the last, whatever it feeds", "model/traced_forward.py", "return gradient is not None and bool(layout.to_map(gradient).any())", "return True", "model/test_families.py -k patches"),
    Mutation("loader position for dataset index", "data/loader.py", "raw = _collate(loader)([data[i] for i in indices])", "raw = next(iter(loader))", "promises/test_same_images.py"),
    Mutation("maps of several layers scaled after fusing", "methods/fusion.py", "share_of_maximum(large.flatten(0, 2)).reshape(large.shape)", "large.relu()", "methods/test_fusion.py"),
    Mutation("fusion mean: sum", "methods/fusion.py", "return shares.mean(0)", "return shares.sum(0)", "methods/test_fusion.py"),
    Mutation("fusion max: min", "methods/fusion.py", "return shares.amax(0)", "return shares.amin(0)", "methods/test_fusion.py"),
    Mutation("fusion tanh_max: weak evidence not lifted", "methods/fusion.py", "torch.tanh(gamma * shares)", "torch.tanh(shares)", "methods/test_fusion.py"),
    Mutation("fusion product: sum", "methods/fusion.py", "return shares.prod(0)", "return shares.sum(0)", "methods/test_fusion.py"),
    Mutation("concepts: the activation not rectified", "concepts.py", "a = seen.activation.relu()", "a = seen.activation.abs()", "test_concepts.py"),
    Mutation("concepts: weakest first", "concepts.py", 'argsort(descending=True, stable=True)\n    return w', 'argsort(stable=True)\n    return w', "test_concepts.py"),
    Mutation("queries and keys read as pictures", "model/trace.py", "if is_split_tokens(", "if not is_split_tokens and (", "model/test_default_layer.py"),
    Mutation("a part of an attention watched", "model/default_layer.py", "if i not in forward.attention_parts", "if True", "model/test_default_layer.py"),
    Mutation("an error within a model's forward reworded", "model/call.py", "signature.bind(None)", "signature.bind()", "model/test_call.py"),
    Mutation("two passes: the second never made", "capture/session.py", "for trunk in (torch.no_grad, torch.enable_grad):", "for trunk in (torch.no_grad,):", "capture/test_session.py"),
    Mutation("two passes: the second made for nothing", "capture/session.py", "if scores.score.requires_grad or recorded_to_the_end:", "if scores.score.requires_grad:", "capture/test_session.py"),
    Mutation("changed maps put in at the wrong call", "capture/hooks.py", "if (layer, self.times[layer]) != (self.layer, self.call):", "if layer != self.layer:", "capture/test_session.py"),
    Mutation("concepts recorded for a backward", "capture/session.py", "recording, result = self._record(images, differentiable=False)", "recording, result = self._record(images, differentiable=True)", "capture/test_session.py"),
    Mutation("a session that is over still runs", "capture/session.py", "session.is_open = False", "pass", "capture/test_session.py"),
]  # fmt: skip

SHOWN = [
    Mutation("swap height and width of boxes", "data/regions.py", "x0, y0, x1, y1 =", "y0, x0, y1, x1 =", "metrics/test_localization.py"),
    Mutation("inclusive box ends", "data/regions.py", "(x < x1)", "(x < x1 + 1)", "metrics/test_localization.py"),
    Mutation("energy_inside of the signed map", "metrics/localization.py", "heat.relu()", "heat", "metrics/test_localization.py"),
    Mutation("energy_inside: NaN counted as nothing inside", "metrics/localization.py", "share.isfinite(), torch.nan)", "share.isfinite(), 0)", "metrics/test_localization.py"),
    Mutation("swap height and width", "render/overlay.py", "return resize(normalized, size)", "return resize(normalized, size[::-1])", "render/test_render.py"),
    Mutation("align corners", "heat.py", "align_corners=False", "align_corners=True", "test_heat.py"),
    Mutation("nearest for bilinear", "heat.py", "mode=_LINEAR[sides], align_corners=False", 'mode="nearest"', "test_heat.py"),
    Mutation("BGR for RGB", "render/colormap.py", "bgr[:, 0, ::-1]", "bgr[:, 0, :]", "render/test_colormap.py"),
    Mutation("colour table reversed", "render/colormap.py", "np.arange(256, dtype", "np.arange(255, -1, -1, dtype", "render/test_colormap.py"),
    Mutation("wrong order in the grid", "figures/sheet.py", "reshape(rows, columns, ", "reshape(columns, rows, ", "figures/test_figures.py"),
    Mutation("filmstrip: samples for moments", "figures/filmstrip.py", ".permute(2, 1, 3, 0, 4)", ".permute(2, 0, 3, 1, 4)", "figures/test_figures.py"),
    Mutation("filmstrip: an epoch too many", "training/schedule.py", "trainer.fit_loop.batch_idx + 1", "trainer.fit_loop.batch_idx + 1 + total", "training/test_schedule.py"),
    Mutation("caption: a sample late", "figures/captions.py", "_caption(batch, record, names[i], (i, j), norm)", "_caption(batch, record, names[i - 1], (i, j), norm)", "render/test_volumes.py"),
    Mutation("step off by one", "training/compat.py", "return int(stepped) - int(trainer.training)", "return int(stepped) + 1", "training/test_publisher.py"),
    Mutation("signed maps not centred at zero", "heat.py", "return -most, most", "return low, high", "test_heat.py"),
    Mutation("an absent target drawn as zeros", "methods/apply.py", "if absent is not None:  # the sample", "if False:  # the sample", "targets/test_targets.py render/test_volumes.py"),
]  # fmt: skip

RUN = [
    Mutation("history: the present look among the earlier", "training/history.py", "past = self.looks[:-1]", "past = self.looks", "metrics/test_contract.py training/test_history.py"),
    Mutation("history: the first target's maps for all", "training/history.py", "return values[:, position]", "return values[:, 0]", "metrics/test_contract.py -k target"),
    Mutation("history: no best look", "training/history.py", "self.best, self._best_value = self.looks[-1].place, value", "pass", "metrics/test_contract.py training/test_history.py"),
    Mutation("history: the best look dropped", "training/history.py", " if places[i] != self.best]", "]", "training/test_history.py"),
    Mutation("history: lower is better is not", "training/history.py", "value < self._best_value", "value > self._best_value", "training/test_history.py"),
    Mutation("history: large maps in single precision", "training/history.py", "_EXACT_CELLS = 512", "_EXACT_CELLS = 100000", "training/test_history.py"),
    Mutation("history: small maps in half precision", "training/history.py", "_EXACT_CELLS = 512", "_EXACT_CELLS = 8", "training/test_history.py"),
    Mutation("history: half precision without a scale", "training/history.py", "(heat / scale).half(), scale", "heat.half(), 1.0", "training/test_history.py"),
    Mutation("condense: flat maps too large", "heat.py", "return _shrinkage(long, cells)", "return factor", "test_heat.py training/test_history.py"),
    Mutation("rating by a metric without a direction", "training/records.py", "if history is not None and higher_is_better is not None and metric.label in values:", "if history is not None and metric.label in values:", "metrics/test_contract.py"),
    Mutation("summarize: infinite values counted", "metrics/measure.py", "defined = flat.isfinite()", "defined = ~flat.isnan()", "metrics/test_contract.py"),
    Mutation("summarize: undefined values counted as zero", "metrics/measure.py", "float(flat[defined].mean())", "float(flat.nan_to_num().mean())", "metrics/test_contract.py"),
    Mutation("summarize: how many for which share", "metrics/measure.py", "float(defined.double().mean())", "float(defined.double().sum())", "metrics/test_contract.py"),
    Mutation("area_share: of one region for the union", "metrics/localization.py", "torch.stack(list(regions.values())).any(0)", "next(iter(regions.values()))", "metrics/test_contract.py"),
    Mutation("a failing metric costs its record", "training/records.py", 'value = attempt(f"{metric.label} of {record.tag}", measure, metric, record.heat', "value = measure(metric, record.heat", "promises/test_records.py -k metric"),
    Mutation("a failing method costs the look", "training/records.py", "record = attempt(plan.tag, make_record, plan,", "record = make_record(plan,", "promises/test_records.py -k method"),
    Mutation("a failing sheet costs all pages", "training/reporter.py", "attempt(what, report_sheet, pages, album)", "report_sheet(pages, album)", "promises/test_records.py -k page"),
    Mutation("errors kept in at the first look", "watcher.py", 'if not self.looked or self.notices.on_error == "raise":', 'if self.notices.on_error == "raise":', "test_watcher.py promises/test_records.py"),
    Mutation("randomness of trackers: pictures", "watcher.py", "with isolated_rng():  # a tracker", "with nullcontext():  # a tracker", "promises/test_records.py promises/test_plain_loop.py -k draw"),
    Mutation("randomness of trackers: numbers", "training/publisher.py", "with isolated_rng():  # a tracker", "if True:  # a tracker", "promises/test_records.py promises/test_plain_loop.py -k draw"),
    Mutation("a Watcher's state: the maps forgotten", "watcher.py", 'self.history = {tag: History.of(maps) for tag, maps in states.items() if "/" in tag}', "pass", "test_watcher_run.py -k resumed"),
    Mutation("a Watcher's state: the target's forgotten", "watcher.py", "state.load(self.target, states)", "pass", "test_watcher_run.py -k resumed"),
    Mutation("a Watcher's state: concepts forgotten", "watcher.py", 'self.concepts.load_state_dict(states.get("concepts", {}))', "pass", "test_watcher_run.py -k resumed"),
    Mutation("a Watcher restarted goes on", "watcher.py", "self.history: dict[str, History] = {}", 'self.history: dict[str, History] = getattr(self, "history", {})', "test_watcher_run.py -k restarted"),
    Mutation("looks outside a fit join the run", "watcher.py", "        if not moment.fitting:\n            target, histories", "        if False:\n            target, histories", "metrics/test_contract.py -k outside"),
]  # fmt: skip

MUTATIONS = [*METHODS, *TARGETS, *ENGINE, *RUN, *SHOWN]
