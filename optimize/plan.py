"""The candidates that a recipe stands for: for each target its plain model, its vendor's default, and the steps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

import targets as target_folder
from optimize.models import OnnxModel, TorchModel
from optimize.recipe import Recipe
from optimize.steps import Settings, behind, get, gives, name_of, takes
from optimize.steps.quantize_static import Step as Static
from optimize.steps.repair import Step as Repair
from runtime.errors import InputError
from runtime.host import Host
from targets import Scheme, Target


@dataclass(frozen=True)
class Candidate:
    """One way the bundle could be made.

    Attributes:
        role: `plain` (unoptimized fp32), `vendor` (as the engine's vendor ships it) or `steps` (as the recipe asks).
        options: what the engine is opened with.
        why_not: why its target cannot be built here; None where it can.
        anew: what is its own is made again, though it lies in the cache.
        repair: the step that returns layers to float should this one lose too much; the run finds which layers.
    """

    name: str
    role: str
    target: Target
    steps: tuple[Settings, ...]
    options: Mapping[str, Any]
    scheme: Scheme
    why_not: str | None = field(default=None)
    repair: Repair | None = field(default=None)
    anew: bool = field(default=False)


def expand(recipe: Recipe, host: Host, plans: Sequence[tuple[Settings, ...]] | None = None) -> list[Candidate]:
    """The candidates of a recipe, or of several lists of steps in their place, target by target.

    The exact steps make the plain model; where the recipe has no others, that is all there is beside the vendor's
    default. Where it changes the model both in torch and in ONNX, the latter alone is a candidate too: one sees what
    pruning brings over quantizing by itself. A step that stands for several ways is a candidate in each. A target that
    computes in half precision as the graph says gets a cast to fp16, alone and after the other steps, which are a
    candidate without it too where they do not round; one that computes in bf16 by an option, as its vendor ships it,
    gets what is asked for with that option too. Of a target that cannot be built here only the last is kept: it travels
    as a source. Patterns in [search] leave candidates out.
    """
    found: dict[str, Candidate] = {}
    every = list(plans or [recipe.all_steps()])
    titles = [_label(steps) for steps in every]
    for steps, title in zip(every, titles, strict=True):
        # two shares of channels to prune, say: what sets them apart is said then
        full = titles.count(title) > 1
        for one in expanded(recipe, host, steps, full):
            found.setdefault(one.name, one)
    return _chosen(recipe, [one for name in recipe.targets for one in found.values() if one.target.name == name])


def _chosen(recipe: Recipe, candidates: list[Candidate]) -> list[Candidate]:
    """Those that [search] leaves; raises InputError where a pattern matches none."""
    names = [one.name for one in candidates if one.role == "steps"]
    for pattern in (*recipe.search.only, *recipe.search.skip, *recipe.search.redo):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"no candidate is called '{pattern}'; there are {', '.join(names) or 'none'}.")

    found = wanted(recipe, candidates)
    if names and recipe.search.only and all(one.role != "steps" for one in found):
        only, skip = (", ".join(patterns) for patterns in (recipe.search.only, recipe.search.skip))
        raise InputError(f"--only {only} and --skip {skip} leave none of {', '.join(names)}: take one of them off.")
    return found


def wanted(recipe: Recipe, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that the patterns in [search] leave; what is to be made anew is marked."""

    def like(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, one) for one in patterns)

    def left(name: str) -> bool:
        return (not recipe.search.only or like(name, recipe.search.only)) and not like(name, recipe.search.skip)

    return [
        replace(one, anew=like(one.name, recipe.search.redo))
        for one in candidates
        if one.role != "steps" or left(one.name)
    ]


def expanded(recipe: Recipe, host: Host, steps: tuple[Settings, ...], full: bool) -> list[Candidate]:
    """The candidates of one list of steps, before any pattern; `full`: their names say how much is done."""
    found: list[Candidate] = []
    searched = [step for step in steps if isinstance(step, Repair) and not step.layers]
    listed = tuple(step for step in steps if step not in searched)
    for name, asked in recipe.targets.items():
        target = target_folder.get(name)
        scheme = target.scheme(asked.get("cpu", "host"), host)
        options, why_not = target.engine_options(asked), target.why_not()
        cpu = asked.get("cpu", "host")
        vain = _in_vain(recipe, scheme)
        own = [tuple(step for step in listed if not (vain and isinstance(step, Static)))]
        # in 7 bits nothing saturates, in 8 it may: where it is measured by such kernels, the better of the two is seen
        if recipe.steps == "auto" and scheme.reduce_range and not recipe.search.quick and _limited(target, cpu):
            own.append(tuple(s.model_copy(update={"wide": True}) if isinstance(s, Static) else s for s in own[0]))
        # what is rounded computes little in float: in bf16 it is mostly the same, and a quick run looks at one of them
        narrow = {} if "precision" in asked or cpu != "host" or recipe.search.quick else target.bf16(host)
        half = None if target.half is None else {key: one for key, one in target.half.items() if key not in asked}
        # as it ships an engine asks the processor what it has, not the limit of its kernels: there it is the plain one
        vendor = {**target.plain, **limits} if (limits := target.limits(cpu)) else dict(target.vendor)
        made = [
            Candidate(
                f"{name}-{label}",
                role,
                target,
                steps,
                vendor if role == "vendor" else {**options, **more},
                scheme,
                why_not,
                searched[0] if searched and role == "steps" and not vain else None,
            )
            for one in own
            for label, role, steps, more in _ways(one, half, narrow, full)
            if (role != "vendor" or vendor != options) and not any(step.unfit(scheme) for step in steps)
        ]
        made = list({one.name: one for one in made}.values())
        found += [one for one in made if one.role != "vendor"][-1:] if why_not else made
    return found


def _limited(target: Target, cpu: str) -> bool:
    """Whether what runs here are the kernels of such a processor."""
    return cpu == "host" or bool(target.limits(cpu))


def _in_vain(recipe: Recipe, scheme: Scheme) -> bool:
    """Whether rounding, which was not asked for by name, would win nothing."""
    return recipe.steps == "auto" and not scheme.fused


def remarks(recipe: Recipe, host: Host, plans: Sequence[tuple[Settings, ...]] | None = None) -> list[str]:
    """What a reader should know: steps that make no candidate for a target, and what is deployed to another CPU."""
    found = []
    for name, asked in recipe.targets.items():
        cpu, limit = asked.get("cpu", "host"), target_folder.get(name).limits(asked.get("cpu", "host"))
        if limit:
            said = ", ".join(map(str, limit.values()))
            found.append(
                f"{name}: for {cpu}; figures are those of its kernels limited to {said}, on {host.cpu}; as it "
                "ships it is the plain engine there"
            )
        elif cpu != "host":
            found.append(
                f"{name}: quantized for {cpu}; its kernels cannot be limited here: accuracy and latency are those of "
                f"{host.cpu}, measure again on the device (python -m runtime bench, optimize recheck)"
            )
        scheme = target_folder.get(name).scheme(asked.get("cpu", "host"), host)
        if _in_vain(recipe, scheme):
            found.append(f"{name}: int8 was not tried, since its kernels compute in float what is between Q and DQ")
        every = [step for steps in plans or [recipe.all_steps()] for way in _each(steps) for step in way]
        reasons = ((step, step.unfit(scheme)) for step in every)
        found += [f"{name}: no candidate with '{name_of(step)}', since {reason}" for step, reason in reasons if reason]
    return list(dict.fromkeys(found))


def _ways(
    steps: tuple[Settings, ...], lifted: Mapping[str, Any] | None, narrow: Mapping[str, Any], full: bool = False
) -> Iterator[tuple[str, str, tuple[Settings, ...], Mapping[str, Any]]]:
    """Label, role, steps and options of a target's candidates; what is asked for comes last."""
    plainly = tuple(get("export")() if _rounds_in_torch(step) else step for step in steps)
    exact = tuple(step for step in plainly if step.exact)
    late = tuple(step for step in steps if step.exact or gives(step) is OnnxModel)
    asked = any(name_of(step) == "cast_fp16" for step in steps)
    half = (get("cast_fp16")(),) if lifted is not None and not asked else ()
    more = (lifted or {}) if half or asked else {}
    yield "fp32", "plain", exact, {}
    yield "default", "vendor", exact, {}
    if half:
        yield _label(half, full), "steps", behind(exact, *half), more
    if exact != late != steps and _label(late, full) != _label(steps, full):
        for way in _each(late):
            yield _label(way + half, full), "steps", behind(way, *half), more
    if steps != exact:
        for way in _each(steps):
            if narrow:
                yield f"{_label(way, full)}-bf16", "steps", way, narrow
            if half and not any(isinstance(step, Static) for step in way):
                yield _label(way, full), "steps", way, {}
            yield _label(way + half, full), "steps", behind(way, *half), more


def _rounds_in_torch(step: Settings) -> bool:
    """It exports what is no longer the same model."""
    return takes(step) is TorchModel and gives(step) is OnnxModel and not step.exact


def _each(steps: Sequence[Settings]) -> Iterator[tuple[Settings, ...]]:
    """Every list of steps that a list of steps stands for; that of each step's first way comes last.

    What is to be rounded in every way there is may be rounded in torch too, where that is what it comes from.
    """
    uses = [name_of(step) for step in steps]
    if "export" in uses and any(isinstance(step, Static) and step.method == "auto" for step in steps):
        place, rounded = uses.index("export"), uses.index("quantize_static")
        static = steps[rounded]
        assert isinstance(static, Static)
        in_torch = get("quantize_torch").model_validate({"samples": static.samples, "wide": static.wide})
        yield from product(*(step.ways() for step in (*steps[:place], in_torch, *steps[rounded + 1 :])))
    yield from product(*(reversed(step.ways()) for step in steps))


def role_of(candidates: Sequence[Candidate], target: str, role: str) -> Candidate:
    """The candidate of a target in a role, or where there is none the target's first.

    That is the plain one, or the only one of a target that cannot be built here.
    """
    own = [candidate for candidate in candidates if candidate.target.name == target]
    return next((candidate for candidate in own if candidate.role == role), own[0])


def _label(steps: Sequence[Settings], full: bool = False) -> str:
    """Each word once: pruned by channels and by blocks is `pruned`; `full` with how much."""
    titles = [f"{step.title()}{step.amount() if full else ''}" for step in steps if step.title()]
    return "-".join(dict.fromkeys(titles))
