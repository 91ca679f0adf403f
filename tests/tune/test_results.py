"""What tuning has found: where it is stored, for which extents it holds, how it travels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssmc.errors import ToolchainError, UserError
from ssmc.runtime import Bucket, Results, Subject, Trial, Winner, bucket_of

SUBJECT = Subject("scan", "texts", "kind", "c", "a processor, 2 threads", "a compiler")
SIZES = {"b": 3, "t": 2000, "d": 768, "n": 16}


def found(plan: str = "lanes=32", when: str = "2026-12-01T00:00:00+00:00") -> Bucket:
    bucket = bucket_of(SIZES, ["b", "t"])
    bucket.trials = {plan: Trial(plan, "measured", 0.5, 0.001), "lanes=256": Trial("lanes=256", "crashed", note="-11")}
    bucket.winner = Winner(plan, 0.6, when)
    return bucket


@pytest.mark.parametrize(
    "others, holds",
    [
        ({}, True),
        ({"b": 4, "t": 2048}, True),
        ({"t": 1025}, True),
        ({"t": 1024}, False),
        ({"t": 2049}, False),
        ({"b": 5}, False),
        ({"d": 767}, False),
        ({"n": 8}, False),
        ({"extra": 3}, True),
    ],
)
def test_batch_and_time_are_rounded_up_to_powers_of_two(others: dict[str, int], holds: bool) -> None:
    assert found().holds({**SIZES, **others}) is holds
    assert not found().holds({"b": 3, "t": 2000})


def test_stored_and_read(tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert results.winner(SUBJECT, SIZES) is None
    results.write(SUBJECT, found())
    assert Results(tmp_path).winner(SUBJECT, SIZES) == found().winner == results.winner(SUBJECT, SIZES)
    assert results.bucket(SUBJECT, bucket_of(SIZES, ["b", "t"])).trials == found().trials
    for name in ("texts", "kind", "target", "device", "tools"):
        assert results.winner(replace(SUBJECT, **{name: "another"}), SIZES) is None
    short = bucket_of({**SIZES, "t": 10}, ["b", "t"])
    results.write(SUBJECT, short)
    assert len(results.buckets(SUBJECT)) == 2 and results.winner(SUBJECT, SIZES) == found().winner
    assert "#t ≤ 16" in short.describe() and "#d = 768" in short.describe()


def test_a_damaged_file_counts_as_none_and_is_written_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.write(SUBJECT, found())
    for text in ("", "{", "[]", '{"buckets": [{}]}'):
        results.path(SUBJECT).write_text(text)
        assert results.winner(SUBJECT, SIZES) is None
    results.write(SUBJECT, found())
    assert results.winner(SUBJECT, SIZES) == found().winner


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "tuned").write_text("a file")
    with pytest.raises(ToolchainError, match="cannot be written"):
        Results(tmp_path).write(SUBJECT, found())


def test_exported_and_taken_in(tmp_path: Path) -> None:
    here, there = Results(tmp_path / "here"), Results(tmp_path / "there")
    here.write(SUBJECT, found())
    here.write(replace(SUBJECT, layer="another", texts="others"), found())
    given = json.loads(json.dumps(here.exported()))
    assert len(given["results"]) == 2 and len(here.exported(["scan"])["results"]) == 1
    assert there.take_in(given)[0] in (SUBJECT, replace(SUBJECT, layer="another", texts="others"))
    assert there.winner(SUBJECT, SIZES) == found().winner
    there.write(SUBJECT, found("lanes=64", "2026-12-02T00:00:00+00:00"))
    there.take_in(given)  # what is older does not replace what was found since
    (bucket,) = there.buckets(SUBJECT)
    assert bucket.winner is not None and bucket.winner.plan == "lanes=64"
    assert {*bucket.trials} == {"lanes=32", "lanes=64", "lanes=256"}


@pytest.mark.parametrize("given", [None, {}, [], {"version": 1}, {"version": 1, "results": [{}]}])
def test_what_is_no_export_is_refused(tmp_path: Path, given: object) -> None:
    with pytest.raises(UserError, match="no export of tuning results"):
        Results(tmp_path).take_in(given)


def test_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="results of version 7"):
        Results(tmp_path).take_in({"version": 7, "results": []})
