"""Several processes, as one of them sees it: who looks at what, what is told to all, and what the first one says."""

import pytest
import torch
from nets import STRICT
from plain import batch
from torch import nn

from lightning_cam.data.batch import FixedBatch
from lightning_cam.training import processes as module
from lightning_cam.training.chunk import chunks_of
from lightning_cam.training.notices import Notices
from lightning_cam.training.processes import Alone, Group, copied_buffers, everywhere, gather, pieces, put_buffers

pytestmark = STRICT

CPU = torch.device("cpu")


def two(monkeypatch, other):
    """The first of two processes; the other one gives this, or the words of its failure."""

    def exchange(answers, data, group=None):
        answers[0] = data
        answers[1] = module._packed(other)

    monkeypatch.setattr(module.dist, "all_gather_object", exchange)
    return Group(0, 2, CPU)


@pytest.mark.parametrize(("count", "processes"), [(7, 2), (16, 3), (1, 3), (5, 5), (20, 1)])
def test_pieces_are_of_all_samples_in_their_order_and_differ_by_one_at_most(count, processes):
    parts = [list(range(count))[piece] for piece in pieces(count, processes)]
    assert [i for part in parts for i in part] == list(range(count)) and len(parts) == processes
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def chunked(n, world, pictures=None, together=False, splits=True):
    """Which samples each process looks at."""
    images = torch.arange(n)[:, None, None, None].expand(n, 3, 4, 4).float()
    shares = []
    for rank in range(world):
        chunks = chunks_of(FixedBatch(images), pictures, None, Group(rank, world, CPU, splits), together)
        assert all(torch.equal(chunk.batch.images, images[chunk.samples]) for chunk in chunks)
        shares.append([list(range(n))[chunk.samples] for chunk in chunks])
    return shares


def test_every_sample_is_looked_at_by_one_process():
    assert chunked(5, 2) == [[[0, 1, 2]], [[3, 4]]]
    assert chunked(1, 3) == [[[0]], [], []]
    assert chunked(40, 1, pictures=4) == [[list(range(16)), list(range(16, 32)), list(range(32, 40))]]
    first, second = chunked(40, 2, pictures=4)
    assert [len(chunk) for chunk in first] == [len(chunk) for chunk in second] == [16, 4] and second[0][0] == 20


def test_those_that_are_shown_are_run_together_where_concepts_are_theirs():
    assert chunked(6, 2, together=True) == [[list(range(6))], []]
    first, *others = chunked(24, 3, pictures=16, together=True)
    assert first == [list(range(16))] and others == [[[16, 17, 18, 19]], [[20, 21, 22, 23]]]
    # a share that holds them all is one already
    assert [sum(map(len, chunks)) for chunks in chunked(40, 2, pictures=4, together=True)] == [20, 20]


def test_all_look_at_the_same_where_no_process_has_the_whole_model():
    assert chunked(5, 2, splits=False) == [[list(range(5))], [list(range(5))]]


def test_one_process_alone_tells_nobody():
    assert Alone().together(lambda: 3) == [3]
    with pytest.raises(ZeroDivisionError):
        Alone().together(lambda: 1 / 0)


def test_what_each_gives_is_had_by_all(monkeypatch):
    group = two(monkeypatch, ({"heat": torch.ones(2)}, ""))
    mine, other = group.together(lambda: {"heat": torch.zeros(2)})
    assert mine["heat"].tolist() == [0, 0] and other["heat"].tolist() == [1, 1]


def test_a_failure_elsewhere_is_told_and_one_here_is_its_own(monkeypatch):
    group = two(monkeypatch, (None, "ValueError: no such layer"))
    with pytest.raises(RuntimeError, match="on process 1: ValueError: no such layer"):
        group.together(lambda: 1)
    with pytest.raises(ZeroDivisionError):
        group.together(lambda: 1 / 0)
    sent = []
    monkeypatch.setattr(module.dist, "all_gather_object", lambda answers, data, group: sent.append(module._unpacked(data, CPU)))
    with pytest.raises(ZeroDivisionError):
        group.together(lambda: 1 / 0)
    # what cannot be sent is a failure like any other, and no reason to leave the others waiting
    with pytest.raises(AttributeError):
        group.together(lambda: lambda: 0)
    assert [words.partition(":")[0] for _, words in sent] == ["ZeroDivisionError", "AttributeError"]


def test_what_comes_off_here_counts_only_if_it_does_everywhere(monkeypatch):
    assert everywhere(Alone(), lambda: 5) == 5
    assert everywhere(two(monkeypatch, (None, "")), lambda: 5) == 5
    with pytest.raises(RuntimeError, match="on process 1: OSError"):
        everywhere(two(monkeypatch, (None, "OSError: full")), lambda: 5)


def test_the_first_process_says_what_the_others_warn_of(monkeypatch):
    notices = Notices("warn")
    held = ([2], [("little of it", "a cause"), ("other", None)])

    def here():
        notices.warn("little of it here", "a cause")
        return [1]

    with pytest.warns(UserWarning) as told:
        assert gather(two(monkeypatch, (held, "")), here, notices) == [1, 2]
    assert [str(warning.message) for warning in told] == ["CAMCallback: little of it here", "CAMCallback: other"]


def test_another_process_holds_its_warnings_and_sends_them(monkeypatch, recwarn):
    notices, sent = Notices("warn"), []

    def exchange(answers, data, group=None):
        sent.append(module._unpacked(data, CPU))
        answers[:] = [module._packed((([1], []), "")), data]

    monkeypatch.setattr(module.dist, "all_gather_object", exchange)
    monkeypatch.setattr("lightning_cam.training.notices.rank_zero_only.rank", 1, raising=False)
    assert gather(Group(1, 2, CPU), lambda: notices.warn("odd", "cause") or [2], notices) == [1, 2]
    assert sent[0] == (([2], [("odd", "cause")]), "") and not recwarn.list
    notices.warn("behind it")
    assert not recwarn.list


def test_all_that_looked_at_the_same_keep_their_own(monkeypatch):
    monkeypatch.setattr(
        module.dist, "all_gather_object", lambda answers, data, group: answers.__setitem__(slice(None), [data, data])
    )
    assert gather(Group(0, 2, CPU, splits=False), lambda: [1, 2], Notices("warn")) == [1, 2]


def test_buffers_of_another_are_written_without_a_trace_in_versions():
    net, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other(torch.rand(4, 2))
    kept, version = net.running_mean, net.running_mean._version
    put_buffers(net, copied_buffers(other))
    assert net.running_mean is kept and torch.equal(kept, other.running_mean) and kept._version == version
    assert copied_buffers(other)["running_mean"] is not other.running_mean


def test_a_batch_is_sent_whole(tmp_path):
    given = FixedBatch(*batch(), names=("a", "b", "c", "d"))
    there = module._unpacked(module._packed(given), CPU)
    assert torch.equal(there.images, given.images) and there.names == given.names and len(there) == 4
