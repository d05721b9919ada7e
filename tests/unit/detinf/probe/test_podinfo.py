"""The downward API's file of annotations, as a kubelet writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf.probe.podinfo import annotation, unquoted

# (value, what Go 1.26 prints of it with fmt.Sprintf("%q", value))
PRINTED = (
    ("", '""'),
    ("plain, it's", '"plain, it\'s"'),
    ('{"items":[],"schema":1}', r'"{\"items\":[],\"schema\":1}"'),
    (r'a "quoted" \ back', r'"a \"quoted\" \\ back"'),
    ("line\nbreak\ttab\rreturn", r'"line\nbreak\ttab\rreturn"'),
    ("\a\b\f\v\x00\x1f\x7f", r'"\a\b\f\v\x00\x1f\x7f"'),
    ("\u0085\u00a0\u2028\ufeff\u200b", r'"\u0085\u00a0\u2028\ufeff\u200b"'),
    ("äöü 中文 \U0001f600 \U000e0001", '"äöü 中文 \U0001f600 \\U000e0001"'),
    ("\ufffd", '"\ufffd"'),
    ("\U0010ffff", r'"\U0010ffff"'),
)


@pytest.mark.parametrize(("value", "printed"), PRINTED)
def test_what_go_prints_is_read_as_what_it_was(value: str, printed: str) -> None:
    assert unquoted(printed) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", '"', "plain", '"open', 'open"', '"a"b"', r'"\"', r'"\q"', r'"\x1"', r'"\u12"', r'"\U0011ffff"'),
        *(r'"\ud800"', r'"\xff"', r'"\xc3("', '"new\nline"', r'"\x1F"'),
    ],
)
def test_what_go_never_prints_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unquoted(text)


@given(st.text())
def test_any_text_is_read_or_refused_and_never_a_crash(text: str) -> None:
    for candidate in (text, f'"{text}"'):
        try:
            assert isinstance(unquoted(candidate), str)
        except ValueError:
            continue


def written(folder: Path, text: str) -> Path:
    (folder / "annotations").write_text(text, encoding="utf-8")
    return folder


def test_annotation_is_found_among_others_by_its_whole_key(tmp_path: Path) -> None:
    lines = [
        'a/detinf.io/asked-again="no"',
        'detinf.io/asked-again-too="no"',
        r'detinf.io/asked-again="\"yes\""',
        'z="1"',
    ]
    folder = written(tmp_path, "\n".join(lines))
    assert annotation(folder, "detinf.io/asked-again") == '"yes"'
    assert annotation(folder, "z") == "1"
    assert annotation(folder, "detinf.io/other") is None


def test_no_annotations_or_no_file_is_none(tmp_path: Path) -> None:
    assert annotation(tmp_path, "z") is None
    assert annotation(written(tmp_path, ""), "z") is None


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "annotations").write_bytes(b'z="\xff"')
    with pytest.raises(ValueError, match="utf-8"):
        annotation(tmp_path, "z")
