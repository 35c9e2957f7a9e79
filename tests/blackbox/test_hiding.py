"""Everything a method might try, by public ways, to get more of a teacher than its answers."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mekd_plugin.blackbox import BlackBox, meter
from mekd_plugin.errors import InputError, NeedsNotMet

DOORS = {
    "black box": lambda probe: BlackBox(probe, "logits", 3),
    "black box of a function": lambda probe: BlackBox(probe.forward, "logits", 3),
    "as_module": lambda probe: BlackBox(probe, "logits", 3).as_module(),
    "as_module of hard responses": lambda probe: BlackBox(probe, "hard", 3).as_module(),
    "meter": meter,
}


@pytest.fixture(params=DOORS.values(), ids=DOORS.keys())
def door(request, probe, images):
    """What a method is handed, after it was used once."""
    made = request.param(probe)
    ask(made, images)
    return made


def ask(door, images) -> Tensor:
    return door(images) if isinstance(door, nn.Module) else door.query(images).values


def walk(start: Any, depth: int = 6) -> Iterator[Any]:
    """Everything that public attributes, containers and ``vars`` lead to."""
    seen: set[int] = set()
    frontier = [start]
    for _ in range(depth):
        following: list[Any] = []
        for thing in frontier:
            if id(thing) in seen or isinstance(thing, str | bytes | int | float | bool | type | None.__class__):
                continue
            seen.add(id(thing))
            yield thing
            if isinstance(thing, Tensor) or inspect.ismodule(thing):
                continue
            for name in dir(thing):
                if not name.startswith("_"):
                    try:
                        following.append(getattr(thing, name))
                    except Exception:  # noqa: S112 -- a property that cannot be read leads nowhere
                        continue
            following += getattr(thing, "__dict__", {}).values()
            following += list(thing.values()) if isinstance(thing, dict) else []
            following += list(thing) if isinstance(thing, list | tuple | set) else []
            following += [getattr(thing, "__self__", None), getattr(thing, "__wrapped__", None)]
        frontier = following


def test_no_attribute_leads_to_the_teacher(door, probe):
    hidden = {id(part) for part in probe.modules()} | {id(value) for value in probe.state_dict(keep_vars=True).values()}
    memory = {value.data_ptr() for value in probe.state_dict(keep_vars=True).values()}
    reached = list(walk(door))
    assert len(reached) > 10, "the walk went nowhere"
    assert not hidden & {id(thing) for thing in reached}
    assert not memory & {thing.data_ptr() for thing in reached if isinstance(thing, Tensor)}


def test_the_walk_finds_a_teacher_that_is_not_hidden(probe):
    class Careless:
        def __init__(self) -> None:
            self._wrapped = {"teacher": [probe]}

    assert any(thing is probe for thing in walk(Careless()))


def test_answers_carry_no_gradient_and_are_no_inference_tensors(door, images):
    wanted = images.clone().requires_grad_()
    with torch.enable_grad():
        answer = ask(door, wanted)
    assert answer.grad_fn is None and not answer.requires_grad and not answer.is_inference()
    weight = torch.ones(3, requires_grad=True)
    (answer.float() * weight[0]).sum().backward()
    assert weight.grad is not None and wanted.grad is None


def test_a_function_that_keeps_its_gradients_gives_none_away(images):
    weight = torch.ones(16, 3, requires_grad=True)

    def careless(batch):
        with torch.enable_grad():
            return batch.flatten(1) @ weight

    assert BlackBox(careless, "logits", 3).query(images).values.grad_fn is None


def test_a_copy_is_the_same_boundary(door, images):
    ledger = door.ledger
    for copied in (copy.copy(door), copy.deepcopy(door), copy.deepcopy([door])[0]):
        ask(copied, images)
    assert ledger.total == 40


def test_pickle_is_refused(door):
    for protocol in (0, pickle.HIGHEST_PROTOCOL):
        with pytest.raises(InputError, match="cannot be pickled"):
            pickle.dumps(door, protocol)


def test_saving_is_refused(door, tmp_path):
    with pytest.raises(InputError, match="cannot be pickled"):
        torch.save(door, tmp_path / "teacher.pt")


@pytest.mark.parametrize("kind", ["as_module", "meter"])
def test_a_module_has_nothing_but_itself(probe, kind):
    module = DOORS[kind](probe)
    assert not list(module.parameters()) and not list(module.buffers()) and not module.state_dict()
    assert list(module.modules()) == [module] and not list(module.children())
    assert module.requires_grad_(True) is module and not probe.head.weight.grad


def test_hooks_see_images_and_answers_only(probe, images):
    module = BlackBox(probe, "logits", 3).as_module()
    seen: list[Any] = []
    module.register_forward_hook(lambda *event: seen.append(event))
    module.register_forward_pre_hook(lambda *event: seen.append(event))
    module(images)
    assert all(not isinstance(thing, nn.Module) or thing is module for event in seen for thing in event)


def test_module_hooks_everywhere_do_not_see_a_parameter_with_gradient(probe, images):
    module = BlackBox(probe, "logits", 3).as_module()
    outputs: list[Tensor] = []
    handle = nn.modules.module.register_module_forward_hook(lambda part, given, output: outputs.append(output))
    try:
        module(images)
    finally:
        handle.remove()
    assert outputs and all(output.grad_fn is None for output in outputs)


def test_neither_train_nor_to_nor_zero_grad_reach_the_teacher(probe, images):
    module = BlackBox(probe, "logits", 3).as_module()
    before = module(images)
    module.train().to(torch.float64).zero_grad()
    assert torch.equal(module(images), before)
    assert probe.head.weight.dtype == torch.float32


class Spy(Tensor):
    """Images that report every function they are put through, and would reach the weights in a layer."""

    seen: list[Any] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append((func, args))
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_class_of_the_images_own_does_not_reach_the_teachers_layers(door, probe, images):
    Spy.seen.clear()
    answer = ask(door, images.as_subclass(Spy))
    weights = {value.data_ptr() for value in probe.state_dict(keep_vars=True).values()}
    assert type(answer) is Tensor
    assert probe.sent and all(type(sent) is Tensor for sent in probe.sent)
    for func, args in Spy.seen:
        assert func is not nn.functional.linear
        assert not {thing.data_ptr() for thing in args if type(thing) is Tensor} & weights


def test_parameters_and_buffers_are_images_too(door, images):
    assert type(ask(door, nn.Parameter(images))) is Tensor


def test_a_trace_is_refused(door, images):
    counted = door.ledger.total
    with pytest.raises(NeedsNotMet, match="cannot be traced"):
        make_fx(lambda batch: ask(door, batch) * 2)(images)
    with pytest.raises(NeedsNotMet, match="cannot be traced"):
        torch.jit.trace(lambda batch: ask(door, batch) * 2, images)
    assert door.ledger.total == counted


def test_an_export_is_refused(door, images):
    class Student(nn.Module):
        def forward(self, batch):
            return ask(door, batch) * 2

    counted = door.ledger.total
    for strict in (False, True):
        with pytest.raises(Exception, match="cannot be traced|stand for values|[Dd]isable") as caught:
            torch.export.export(Student(), (images,), strict=strict)
        assert not isinstance(caught.value, AssertionError)
    assert door.ledger.total == counted


def test_a_transform_of_functions_is_refused(door, images):
    with pytest.raises(InputError, match="ask outside of torch.func"):
        torch.func.vmap(lambda image: ask(door, image[None]))(images)
    with pytest.raises(InputError, match="ask outside of torch.func"):
        torch.func.grad(lambda batch: ask(door, batch).sum())(images)


def test_fake_tensors_have_nothing_to_send(door, images):
    counted = door.ledger.total
    with FakeTensorMode() as mode, pytest.raises(InputError, match="stand for values"):
        ask(door, mode.from_tensor(images))
    assert door.ledger.total == counted


def test_compiled_code_asks_as_it_does_without(door, images):
    counted = door.ledger.total
    compiled = torch.compile(lambda batch: ask(door, batch) * 2, backend="eager")
    assert torch.equal(compiled(images), ask(door, images) * 2)
    compiled(images)
    assert door.ledger.total == counted + 30


def test_a_compiled_graph_holds_no_weight(door, probe, images):
    weights = {value.data_ptr() for value in probe.state_dict(keep_vars=True).values()}
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph, inputs):
        graphs.append(graph)
        held = [*graph.parameters(), *graph.buffers(), *(value for value in inputs if isinstance(value, Tensor))]
        assert not {value.data_ptr() for value in held} & weights
        return graph

    torch.compile(lambda batch: ask(door, batch + 0) * 2, backend=keep)(images)
    assert graphs, "nothing was compiled"
