import json

import pytest

from mlvlab_jax.data.quarantine import BadExample, Quarantine
from mlvlab_jax.engine.shared_quarantine import SharedQuarantine
from mlvlab_jax.errors import DataError

BAD = [BadExample("train", i, f"{i}.jpg", "truncated") for i in range(4)]


def make(path, *, writes=True, max_bad_fraction=0.5):
    quarantine = Quarantine(path, sizes={"train": 10}, max_bad_fraction=max_bad_fraction, writes=writes)
    return SharedQuarantine(quarantine)


def listed(path):
    return [json.loads(line)["example_id"] for line in path.read_text().splitlines()]


def test_a_process_that_is_alone_writes_at_once(tmp_path):
    shared = make(tmp_path / "q.jsonl")
    shared.add(BAD[:1])
    assert listed(tmp_path / "q.jsonl") == [0]
    assert shared.num_bad == 1


def test_what_others_met_is_known_to_all_and_written_by_one(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("mlvlab_jax.engine.shared_quarantine.is_joined", lambda: True)
    monkeypatch.setattr(
        "mlvlab_jax.engine.shared_quarantine.gather",
        lambda met: json.loads(json.dumps([sent.append(met) or met, [list(BAD[2])]])),
    )
    first, second = (make(tmp_path / "q.jsonl", writes=writes) for writes in (True, False))
    for shared in (first, second):
        shared.add(BAD[:2])
        assert shared.num_bad == 0
        shared.share()
        assert shared.num_bad == 3
        shared.share()
    assert listed(tmp_path / "q.jsonl") == [0, 1, 2]
    assert [len(met) for met in sent] == [2, 0, 2, 0]


def test_too_many_of_all_processes_together_stop_each_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("mlvlab_jax.engine.shared_quarantine.is_joined", lambda: True)
    monkeypatch.setattr("mlvlab_jax.engine.shared_quarantine.gather", lambda met: [met, [list(e) for e in BAD[2:]]])
    shared = make(tmp_path / "q.jsonl", writes=False, max_bad_fraction=0.3)
    shared.add(BAD[:2])
    with pytest.raises(DataError, match=r"4 of 10|0\.3"):
        shared.share()
    assert not (tmp_path / "q.jsonl").exists()
