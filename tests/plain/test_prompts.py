"""The grammar of prompts: 65 texts that people write, what is never lost, and hostile ones.

The numbers of the cases are those of the table that they were measured for, with the web UI's own
reader. Pieces without any text are left out here: they have no tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import time

import pytest

from keras_sd.prompts import (
    STYLES,
    Alternation,
    Edit,
    PromptError,
    Segment,
    brackets,
    edits,
    parse,
    script,
    sections,
    tags,
)

BREAK = "BREAK"
DOWN = 1 / 1.1
FAMILY = ("keras_sd", "a1111")


def rows(text, style):
    """Texts with weights, and a word between sections."""
    found = []
    for index, section in enumerate(sections(text, style)):
        found += [BREAK] * bool(index) + [(each.text, each.weight) for each in section]
    return found


def near(expected):
    return [each if each == BREAK else (each[0], pytest.approx(each[1])) for each in expected]


# --- weights --------------------------------------------------------------------------

WEIGHTS = [
    (1, "", []),
    (2, "(cat)", [("cat", 1.1)]),
    (2, "((cat))", [("cat", 1.21)]),
    (3, "(cat:1.3)", [("cat", 1.3)]),
    (3, "(cat: 1.3 )", [("cat", 1.3)]),
    (4, "[cat]", [("cat", 0.909091)]),
    (4, "[[cat]]", [("cat", 0.826446)]),
    (5, "(cat:1.3", [("cat:1.3", 1.1)]),
    (6, "[cat:1.3]", [("cat:1.3", 0.909091)]),
    (7, "(cat:-1)", [("cat", -1)]),
    (7, "(cat:.5)", [("cat", 0.5)]),
    (7, "(cat:1.)", [("cat", 1)]),
    (7, "(cat:+1.2)", [("cat", 1.2)]),
    (7, "(cat:0)", [("cat", 0)]),
    (9, "(cat:abc)", [("cat:abc", 1.1)]),
    (9, "(cat:1e1)", [("cat:1e1", 1.1)]),
    (9, "(a:1,2)", [("a:1,2", 1.1)]),
    (10, "(a:b:1.4)", [("a:b", 1.4)]),
    (
        11,
        "a (b (c:1.2) d:1.5) e",
        [("a ", 1), ("b ", 1.5), ("c", 1.8), (" d", 1.5), (" e", 1)],
    ),
    (12, "((cat:1.3):1.2)", [("cat", 1.56)]),
    (12, "((a:0.5))", [("a", 0.55)]),
    (13, r"\(cat\)", [("(cat)", 1)]),
    (13, r"(\(cat\):1.2)", [("(cat)", 1.2)]),
    (14, r"a\\b", [(r"a\b", 1)]),
    (14, r"\a", [("a", 1)]),
    (14, r"\\(a)", [("\\", 1), ("a", 1.1)]),
    (15, r"(a\:b:1.2)", [("a:b", 1.2)]),
    (16, "cat)", [("cat)", 1)]),
    (16, "cat]", [("cat]", 1)]),
    (16, "(cat:1.1))", [("cat", 1.1), (")", 1)]),
    (17, "(cat", [("cat", 1.1)]),
    (17, "((cat", [("cat", 1.21)]),
    (17, "[cat", [("cat", 0.909091)]),
    (18, "(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 0.909091)]),
    (19, "()", []),
    (19, "(:1.5)", []),
    (20, "a:b", [("a:b", 1)]),
    (21, "(a)(b)", [("ab", 1.1)]),
    (21, "(a) (b)", [("a", 1.1), (" ", 1), ("b", 1.1)]),
    (22, "(a:1.2),(b:1.2)", [("a", 1.2), (",", 1), ("b", 1.2)]),
    (23, "(a, (b:0.5)", [("a, ", 1.1), ("b", 0.55)]),
    (24, "(a:1.5)b:2)", [("a", 1.5), ("b:2)", 1)]),
    (
        25,
        "((a), (b:1.2) [c:1.3])",
        [("a", 1.21), (", ", 1.1), ("b", 1.32), (" ", 1.1), ("c:1.3", 1.0)],
    ),
    (26, "{cat}", [("{cat}", 1)]),
    (26, "（cat）", [("（cat）", 1)]),
    (27, "(cat:１.2)", [("cat", 1.2)]),
    (28, "a BREAK b", [("a", 1), BREAK, ("b", 1)]),
    (28, "a  BREAK  b", [("a", 1), BREAK, ("b", 1)]),
    (29, "a,BREAK,b", [("a,", 1), BREAK, (",b", 1)]),
    (30, "BREAKFAST break", [("BREAKFAST break", 1)]),
    (30, "aBREAK b", [("aBREAK b", 1)]),
    (32, "(x:-1)BREAK b", [("x", -1), BREAK, ("b", 1)]),
    (33, "a BREAK(b)", [("a", 1), BREAK, ("b", 1.1)]),
]


@pytest.mark.parametrize("style", FAMILY)
@pytest.mark.parametrize(("case", "text", "expected"), WEIGHTS)
def test_weights(case, text, expected, style):
    assert rows(text, style) == near(expected), case


@pytest.mark.parametrize("style", FAMILY)
@pytest.mark.parametrize(
    "text", ["(cat:1.2.3)", "(cat:.)", f"a (b:{'9' * 400})", "(" * 8000 + "a", "a AND b (c:+.)"]
)
def test_a_weight_that_is_no_number_is_an_error_8(text, style):
    with pytest.raises(PromptError, match=r"no number; a weight is one|is inf"):
        parse(text, style)


def test_the_error_of_a_weight_shows_where_it_is():
    with pytest.raises(PromptError, match=r"'1\.2\.3' in '\(cat:1\.2\.3\)'"):
        parse("a dog, (cat:1.2.3) and (more:1.2)", "keras_sd")


@pytest.mark.parametrize(
    ("text", "ours", "original"),
    [
        (
            "(a BREAK b:1.2)",
            [("a", 1.2), BREAK, ("b", 1.2)],
            [("a", 1.2), (BREAK, -1.2), ("b", 1.2)],
        ),
        (
            "[a BREAK b]",
            [("a", DOWN), BREAK, ("b", DOWN)],
            [("a", DOWN), (BREAK, -DOWN), ("b", DOWN)],
        ),
        # Brackets of weight 1 leave the mark as it is.
        ("(a BREAK b:1)", [("a", 1), BREAK, ("b", 1)], [("a", 1), BREAK, ("b", 1)]),
    ],
)
def test_a_break_in_brackets_breaks_31(text, ours, original):
    assert rows(text, "keras_sd") == near(ours)
    assert rows(text, "a1111") == near(original)


# --- edits ----------------------------------------------------------------------------


def cycle(*texts, steps=10):
    return list(zip(range(1, steps + 1), itertools.cycle(texts), strict=False))


EDITS = [
    (6, "[cat:1.3]", [(10, "")]),
    (34, "[a:b:3]", [(3, "a"), (10, "b")]),
    (35, "[a:b:0.3]", [(3, "a"), (10, "b")]),
    (35, "[a:b:.35]", [(3, "a"), (10, "b")]),
    (36, "[a::4]", [(4, "a"), (10, "")]),
    (36, "[a:4]", [(4, ""), (10, "a")]),
    (36, "[:a:4]", [(4, ""), (10, "a")]),
    (37, "[a:b:0]", [(10, "b")]),
    (37, "[a:b:0.05]", [(10, "b")]),
    (37, "[a:b:-1]", [(10, "b")]),
    (38, "[a:b:1]", [(1, "a"), (10, "b")]),
    (38, "[a:b:1.0]", [(10, "a")]),
    (39, "[a:b:10]", [(10, "a")]),
    (39, "[a:b:12]", [(10, "a")]),
    (39, "[a:b:1.5]", [(10, "a")]),
    (39, "[a:b:1e1]", [(10, "a")]),
    (39, "[a:b:1e999]", [(10, "a")]),
    (40, "[a:b: 3 ]", [(3, "a"), (10, "b")]),
    (40, "[a:b:+3]", [(3, "a"), (10, "b")]),
    (40, "[a:b:3e0]", [(3, "a"), (10, "b")]),
    (41, "[a:[b:c:6]:3]", [(3, "a"), (6, "b"), (10, "c")]),
    (42, "a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    (43, "[a:b:3][c:d:6]", [(3, "ac"), (6, "bc"), (10, "bd")]),
    (44, "a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    (45, "(a [b:c:5] d:1.2)", [(5, "(a b d:1.2)"), (10, "(a c d:1.2)")]),
    (46, "[(a:1.2):(b:1.3):5]", [(5, "(a:1.2)"), (10, "(b:1.3)")]),
    (47, "[a, b:c, d:0.5]", [(5, "a, b"), (10, "c, d")]),
    *((48, each, [(10, each)]) for each in ("[a:b:three]", "[a:b:3", "[a:b:c:3]", "[a:b:5%]")),
    (49, "a] b [c:d:3]", [(3, "a] b c"), (10, "a] b d")]),
    (49, "[a:b:3]]", [(3, "a]"), (10, "b]")]),
    (50, "[:5]", [(5, ""), (10, "")]),
    (51, "a [b] c", [(10, "a [b] c")]),
    (52, r"[a\:b:c:5]", [(5, r"a\:b"), (10, "c")]),
    (53, "[a|b|c]", cycle("a", "b", "c")),
    (54, "[a|]", cycle("a", "")),
    (54, "[|a]", cycle("", "a")),
    (54, "[fe|]male", cycle("female", "male")),
    (55, "[a|(b:1.1)]", cycle("a", "(b:1.1)")),
    (56, "[[a|b]:c:4]", [*cycle("a", "b", steps=4), *((step, "c") for step in range(5, 11))]),
    (57, "[[a:b:3]|c]", cycle(*"acacbcbcbc")),
    (58, "(a|b)", [(10, "(a|b)")]),
]


@pytest.mark.parametrize("style", FAMILY)
@pytest.mark.parametrize(("case", "text", "expected"), EDITS)
def test_edits(case, text, expected, style):
    exact = style == "a1111"
    assert list(edits.entries(edits.read(text, exact), 10, None, exact)) == expected, case


def test_ours_reads_an_alternation_with_a_bar_in_brackets_58():
    text = "[(a|b)|c]"
    assert parse(text, "a1111").parts[0].entries(10) == ((10, text),)
    assert list(parse(text, "keras_sd").parts[0].entries(10)) == cycle("(a|b)", "c")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("[a:b:3] x|y", ((3, "a x|y"), (10, "b x|y"))),
        ("[a:b:3]\\", ((3, "a\\"), (10, "b\\"))),
        ("[(x:y:1.4):c:3]", ((3, "(x:y:1.4)"), (10, "c"))),
        ("[[a:b:c:3]:d:2]", ((2, "[a:b:c:3]"), (10, "d"))),
        ("[a|b:c:3] [d:e:3]", ((3, "[a|b:c:3] d"), (10, "[a|b:c:3] e"))),
    ],
)
def test_one_bracket_that_is_no_edit_does_not_hide_the_others_in_ours(text, ours):
    assert parse(text, "keras_sd").parts[0].entries(10) == ours
    assert parse(text, "a1111").parts[0].entries(10) != ours


SECOND_PASS = [
    (59, "[a:b:3]", [(20, "b")]),
    (59, "[a:b:0.5]", [(20, "b")]),
    (60, "[a:b:1.5]", [(10, "a"), (20, "b")]),
    (60, "[a:b:15]", [(5, "a"), (20, "b")]),
    (60, "[a:b:31]", [(20, "a")]),
]


@pytest.mark.parametrize("style", FAMILY)
@pytest.mark.parametrize(("case", "text", "expected"), SECOND_PASS)
def test_a_second_pass_goes_on_counting(case, text, expected, style):
    (part,) = parse(text, style).parts
    assert list(part.entries(20, earlier=10)) == expected, case


def test_a_fraction_is_taken_of_the_steps_as_it_is_written():
    assert parse("[a:b:0.29]", "keras_sd").parts[0].entries(100)[0] == (29, "a")
    assert parse("[a:b:0.29]", "a1111").parts[0].entries(100)[0] == (28, "a")


def steps(text, style, num_steps):
    return [(r.first, r.last, r.text) for r in parse(text, style).parts[0].ranges(num_steps)]


def test_the_original_is_late_by_one_step():
    assert steps("[a:b:3]", "keras_sd", 10) == [(1, 3, "a"), (4, 10, "b")]
    assert steps("[a:b:3]", "a1111", 10) == [(1, 4, "a"), (5, 10, "b")]
    assert steps("[a|b]", "keras_sd", 4) == [(1, 1, "a"), (2, 2, "b"), (3, 3, "a"), (4, 4, "b")]
    assert steps("[a|b]", "a1111", 4) == [(1, 2, "a"), (3, 3, "b"), (4, 4, "a")]
    assert steps("[a:b:9]", "a1111", 10) == [(1, 10, "a")]


@pytest.mark.parametrize("style", STYLES)
def test_ranges_cover_each_step_once(style):
    draw = random.Random(5)
    for _ in range(200):
        text = noisy(draw)
        for part in parsed_parts(text, style):
            for num_steps in (1, 2, 7):
                ranges = part.ranges(num_steps)
                covered = [s for r in ranges for s in range(r.first, r.last + 1)]
                assert covered == list(range(1, num_steps + 1)), (text, style)
                assert all(a.text != b.text for a, b in itertools.pairwise(ranges))


def test_edits_are_values():
    (edit,) = edits.read("[a:[b|c]:0.5]")
    assert edit == Edit(("a",), (Alternation((("b",), ("c",))),), 0.5, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        edit.when = 1
    assert hash(parse("[a:b:3] <lora:x:1> AND c", "keras_sd")) is not None


def test_edits_nest_up_to_a_bound():
    deep = edits.MAX_NESTED
    assert parse("[" * deep + "a" + ":2]" * deep, "keras_sd").parts[0].entries(3)[-1] == (3, "a")
    with pytest.raises(PromptError, match="100 work"):
        parse("[" * (deep + 1) + "a" + ":2]" * (deep + 1), "keras_sd")


# --- AND, tags ------------------------------------------------------------------------


def parts(text, style):
    return [("".join(part.written), part.weight) for part in parse(text, style).parts]


ANDS = [
    (61, "a :1.2 AND b:0.5", [("a", 1.2), ("b", 0.5)]),
    (61, "a AND b :-1", [("a", 1), ("b", -1)]),
    (62, "ANDROID AND b", [("ANDROID", 1), ("b", 1)]),
    (62, "a and b", [("a and b", 1)]),
    (62, "a AND", [("a", 1), ("", 1)]),
    (64, "a:1.2.3 AND b", [("a:1.2.3", 1), ("b", 1)]),
    (64, "(a AND b:1.2)", [("(a", 1), ("b:1.2)", 1)]),
]


@pytest.mark.parametrize("style", FAMILY)
@pytest.mark.parametrize(("case", "text", "expected"), ANDS)
def test_parts(case, text, expected, style):
    assert parts(text, style) == expected, case


@pytest.mark.parametrize("style", FAMILY)
def test_a_part_has_edits_of_its_own_63(style):
    first, second = parse("[a:b:0.5] AND c :0.7", style).parts
    assert (first.changes, first.weight) == (True, 1)
    assert (second.written, second.weight) == (("c",), 0.7)


def test_a_weight_of_the_whole_prompt_needs_an_and_in_ours():
    assert parts("a ratio of 16:9", "keras_sd") == [("a ratio of 16:9", 1)]
    assert parts("a ratio of 16:9", "a1111") == [("a ratio of 16", 9)]


NEGATIVES = ["a AND b", "a <lora:x:1>", "a :2 AND b", "<hypernet:y> a AND b"]


@pytest.mark.parametrize("text", NEGATIVES)
def test_a_negative_prompt_has_no_parts_and_tags(text):
    with pytest.raises(PromptError, match=r"^A negative prompt has .* belong in the prompt"):
        parse(text, "keras_sd", negative=True)
    read = parse(text, "a1111", negative=True)
    assert ([(part.written, part.weight) for part in read.parts], read.tags) == ([((text,), 1)], ())


def test_a_negative_prompt_has_the_rest():
    for style in ("keras_sd", "a1111"):
        read, same = (parse("(a:1.2) [b:c:3]", style, negative=each) for each in (True, False))
        assert read == same
    assert parse("a:2", "a1111").parts[0].weight == 2
    assert parse("a:2", "a1111", negative=True).parts[0].weight == 1


def said(style, num_steps, *texts):
    """The steps, and what they have: of each part, of each image its text."""
    found = script([parse(text, style) for text in texts], num_steps)
    words = ["".join(each.text for each in line.pieces[0][0][0]) for line in found.lines]
    turns = [(t.last, [[words[row] for row in rows] for rows in t.rows]) for t in found.turns]
    return turns, found.weights


def test_a_script_has_one_line_an_image_where_nothing_changes():
    for style in STYLES:
        read = [parse(text, style) for text in ("a", "b", "a")]
        found = script(read, 7)
        assert [line.pieces[0][0][0][0].text for line in found.lines] == ["a", "b", "a"]
        assert [(turn.last, turn.rows) for turn in found.turns] == [(7, ((0, 1, 2),))]
        assert found.weights is None


def test_a_script_has_a_turn_for_each_choice_of_texts():
    turns, weights = said("keras_sd", 6, "[a:b:2]", "c", "[d:e:4]")
    assert turns == [(2, [["a", "c", "d"]]), (4, [["b", "c", "d"]]), (6, [["b", "c", "e"]])]
    assert weights is None
    turns, _ = said("a1111", 3, "[a|b]")
    assert turns == [(2, [["a"]]), (3, [["b"]])]
    found = script([parse("[a|b]", "keras_sd")], 50)
    assert (len(found.lines), len(found.turns)) == (2, 50)


def test_an_image_with_fewer_parts_has_its_first_again_which_does_not_count():
    turns, weights = said("keras_sd", 4, "a", "[b|c] AND d :0.5", "e AND f AND g :-1")
    first, last = turns[0], turns[3]
    assert first == (1, [["a", "b", "e"], ["a", "d", "f"], ["a", "b", "g"]])
    assert last == (4, [["a", "c", "e"], ["a", "d", "f"], ["a", "c", "g"]])
    assert weights == ((1, 1, 1), (0, 0.5, 1), (0, 0, -1))
    assert said("a1111", 1, "a:2") == ([(1, [["a"]])], ((2,),))


def test_what_one_encoding_is_made_of_is_one_line():
    found = script([parse('("a", "b").blend(1, 3)', "compel"), parse("c", "compel")], 4)
    one, other = found.lines
    assert ([weight for _, weight in one.pieces], one.join) == ([0.25, 0.75], "blended")
    assert len(other.pieces) == 1
    assert found.weights is None


def test_tags_65():
    assert tags.cut("a <lora:x:0.8> b")[0] == "a  b"
    text, (tag,) = tags.cut("<lora:a>b:1>")
    assert (text, tag.kind, tag.name) == ("b:1>", "lora", "a")
    assert tags.cut("<lora:x:1") == ("<lora:x:1", ())


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("<lora:x>", (1, 1, None)),
        ("<lora:x:0.8>", (0.8, 0.8, None)),
        ("<lyco:x:0.8:0.5>", (0.8, 0.5, None)),
        ("<lora:x:0.8:0.5:16>", (0.8, 0.5, 16)),
        ("<lora:x:te=0.2:unet=-1:dyn=8>", (0.2, -1, 8)),
        ("<lora:x:unet=0.3>", (1, 0.3, None)),
        ("<lora:x:0.5:te=0.1>", (0.1, 0.1, None)),
    ],
)
def test_the_numbers_of_a_tag(text, strengths):
    (tag,) = parse(text, "keras_sd").tags
    assert (tag.kind, tag.name, tag.known) == ("lora", "x", True)
    assert (tag.text_encoder, tag.unet, tag.rank) == strengths


@pytest.mark.parametrize(
    "text",
    [
        "<lora:x:strong>",
        "<lora:x:1:2:3:4>",
        "<lora:x:half=1>",
        "<lora:x:dyn=1.5>",
        "<lora::1>",
        "<lora:x:1:1:-2>",
    ],
)
def test_a_tag_with_wrong_numbers_is_an_error(text):
    with pytest.raises(PromptError, match=re.escape(text[:9])):
        parse(text, "keras_sd")


def test_a_tag_of_a_kind_that_is_not_known_is_kept_and_named():
    prompt = parse("a <style:soft:1> cat (b <lora:y>:1.2)", "a1111")
    assert [tag.source for tag in prompt.unknown_tags] == ["<style:soft:1>"]
    assert [tag.name for tag in prompt.tags] == ["soft:1", "y"]
    assert parts("a <style:soft:1> cat", "a1111") == [("a  cat", 1)]


# --- the other grammars ---------------------------------------------------------------

COMFY = [
    ("(cat)", [("cat", 1.1)]),
    ("((cat))", [("cat", 1.21)]),
    ("((cat:1.3):1.2)", [("cat", 1.3)]),
    ("((cat):1.5)", [("cat", 1.65)]),
    ("(a (b:1.2) c:1.5)", [("a ", 1.5), ("b", 1.2), (" c", 1.5)]),
    ("[cat] BREAK", [("[cat] BREAK", 1)]),
    ("(cat", [("(cat", 1)]),
    ("cat)", [("cat)", 1)]),
    ("(cat:1.2.3)", [("cat:1.2.3", 1.1)]),
    ("(cat: 1e1 )", [("cat", 10)]),
    ("(:1.2)", [(":1.2", 1.1)]),
    ("((a):1.2)", [("a", 1.32)]),
    (r"\(a\) (b\):1.2)", [("(a) ", 1), ("b)", 1.2)]),
    (r"a\b", [(r"a\b", 1)]),
    ("a <lora:x:1> AND b:2", [("a <lora:x:1> AND b:2", 1)]),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), COMFY)
def test_comfy(text, expected):
    assert rows(text, "comfy") == near(expected)


def test_comfy_refuses_a_weight_that_is_not_finite():
    with pytest.raises(PromptError, match="is nan"):
        parse("(a:nan)", "comfy")


COMPEL = [
    ("a cat+", [("a", 1), ("cat", 1.1)]),
    ("cat++ dog--", [("cat", 1.21), ("dog", 0.81)]),
    ("(a cat)1.3 dog", [("a cat", 1.3), ("dog", 1)]),
    ("(a cat) dog", [("a cat dog", 1)]),
    ("(a (cat)1.2 b)1.5", [("a", 1.5), ("cat", 1.8), ("b", 1.5)]),
    ("(a (cat)+ b)-", [("a", 0.9), ("cat", 0.99), ("b", 0.9)]),
    ("(a+ b)1.2", [("a", 1.32), ("b", 1.2)]),
    ("a-b--", [("a-b", 0.81)]),
    ("cat +", [("cat +", 1)]),
    ("a +b", [("a +b", 1)]),
    ("(cat", [("(cat", 1)]),
    ("cat)", [("cat)", 1)]),
    ("mountain+, man-", [("mountain", 1.1), (",", 1), ("man", 0.9)]),
    (r"\(a\)+", [("(a)", 1.1)]),
    ("(a)+(b)+", [("a b", 1.1)]),
    ('"a b"+', [("a b", 1.1)]),
    (r'"a \"b\" c"+', [('a "b" c', 1.1)]),
    ("(a)0", [("a", 0)]),
    ("(a)1.2.3", [("a", 1.2), (".3", 1)]),
    ("a (b c).attend(1.2)", [("a", 1), ("b c", 1.2)]),
    ("a (b c).attend(--)", [("a", 1), ("b c", 0.81)]),
    ("(a b) 1.3", [("a b 1.3", 1)]),
    ("(a b)1.3c", [("a b", 1.3), ("c", 1)]),
    ("(a:1.3)", [("a:1 . 3", 1)]),
    ("++", [("++", 1)]),
    ("1girl+ a,b", [("1girl", 1.1), ("a, b", 1)]),
    ("(a, b c)1.2 d", [("a , b c", 1.2), ("d", 1)]),
    ("a\\+ b", [("a\\+ b", 1)]),
    ("  ", []),
]


@pytest.mark.parametrize(("text", "expected"), COMPEL)
def test_compel(text, expected):
    assert rows(text, "compel") == near(expected)


def test_compel_blends_and_joins():
    prompt = parse('("a+", "b, (c)").blend(1, .25)', "compel")
    assert (prompt.join, parts(prompt.text, "compel")) == (
        "blended",
        [("a+", 0.8), ("b, (c)", 0.2)],
    )
    assert parts('("a","b").blend(1,.8,no_normalize)', "compel") == [("a", 1), ("b", 0.8)]
    prompt = parse('("a", (b c)1.2, d).and()', "compel")
    assert (prompt.join, len(prompt.parts)) == ("joined", 3)
    assert parts(prompt.text, "compel") == [("a", 1), ("(b c)1.2", 1), ("d", 1)]
    assert parts('("a", "b").add(1, 2)', "compel") == [("a", 1), ("b", 2)]


def test_compel_asks_for_adapters():
    prompt = parse("withLora(film, 0.8) a cat useLora(x)", "compel")
    assert [(t.name, t.text_encoder, t.unet) for t in prompt.tags] == [
        ("film", 0.8, 0.8),
        ("x", 1, 1),
    ]
    assert prompt.parts[0].ranges(1)[0].sections == ((Segment("a cat"),),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('("a", "b").blend(1)', "1 weights of 2 prompts"),
        ('("a", "b").blend(1, -1)', "add up to 0"),
        ('("a", "b").blend(1, x)', "'x' in"),
        ('("a", "b").and() c', "'c' behind .and"),
        ("a cat.swap(dog)", "no .swap"),
        ("(a cat).swap(dog)", "no .swap"),
        ("a" + "+" * 10_000, "is inf"),
        ("withLora(a, 1.2.3) b", r"'1\.2\.3'"),
    ],
)
def test_what_compel_has_no_place_for_is_an_error(text, message):
    with pytest.raises(PromptError, match=message):
        parse(text, "compel")


# --- what holds of any text -----------------------------------------------------------

PIECES = [
    *'ab ,:|()[]\\+-".<>',
    "[a:b:3]",
    "[a|b]",
    ":0.5]",
    ":1.2)",
    " BREAK ",
    " AND ",
    "<lora:x:0.5>",
    '("a", "b").blend(1,1)',
    "(a b)1.2",
    "e\u0301",
    "\n",
    "\U0001f600",
]


def noisy(draw):
    return "".join(draw.choice(PIECES) for _ in range(draw.randint(0, 14)))


def parsed_parts(text, style):
    try:
        return parse(text, style).parts
    except PromptError:
        return ()


def test_plain_text_is_text():
    draw = random.Random(1)
    for _ in range(300):
        text = noisy(draw)
        prompt = parse(text)
        assert (prompt.style, prompt.tags) == ("plain", ())
        assert parts(text, "plain") == [(text, 1)]
        assert rows(text, "plain") == ([(text, 1)] if text else [])


@pytest.mark.parametrize("style", STYLES)
def test_words_without_signs_are_the_same_in_each_style(style):
    text = "a cat face, on a blue background"
    assert rows(text, style) == [(text, 1)]
    assert parts(text, style) == [(text, 1)]


@pytest.mark.parametrize("style", STYLES)
def test_no_letter_is_lost_and_none_comes_twice(style):
    # Letters of their own, so that each can be found again, in texts without numbers and tags.
    draw = random.Random(2)
    signs = [*" ,()[]|\\+-", " BREAK ", " AND ", " :"]
    for _ in range(500):
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        text = "".join(
            next(letters) if draw.random() < 0.5 else draw.choice(signs) for _ in range(20)
        )
        text = text.replace("[", "(").replace("]", ")") if draw.random() < 0.5 else text
        if style in FAMILY and re.search(r"\[[^\]]*\|", text):
            continue  # of an alternation each step has only one option
        read = "".join(
            segment.text
            for part in parse(text, style).parts
            for section in part.ranges(1)[0].sections
            for segment in section
        )
        expected = [letter for letter in text if letter.islower()]
        assert [letter for letter in read if letter.islower()] == expected, text


@pytest.mark.parametrize("style", FAMILY)
def test_escaped_text_is_read_back(style):
    draw = random.Random(3)
    for _ in range(200):
        text = "".join(draw.choice("ab ,:()[]\\|x") for _ in range(draw.randint(0, 12)))
        escaped = re.sub(r"([\\()\[\]:|])", r"\\\1", text)
        (part,) = parse(escaped, style).parts
        (only,) = part.ranges(5)
        assert "".join(each.text for each in only.sections[0]) == text


N, M = 50_000, 10_000
HOSTILE = {
    "round": "(" * N,
    "square": "[" * N,
    "closed": "[" * (N // 2) + "a" + "]" * (N // 2),
    "round closed": "(" * (N // 2) + "a" + ")" * (N // 2),
    "weights": "(" * (M // 6) + "a" + ":1)" * (M // 6),
    "crossed": "([" * (M // 2) + "])" * (M // 2),
    "edits": "[a:b:3]" * (M // 7),
    "edits in no edits": "[x:y:z:" * (M // 8) + "1]" * (M // 8),
    "open edits": "[x:" * (M // 3),
    "open alternations": "[x|" * (M // 3),
    "open in closed": "[(x:" * (M // 6) + ")]" * (M // 6),
    "blanks": " " * N + "BREAK" + " " * N,
    "colons": ": " * (N // 2),
    "digits": "(a:" + "1" * N + ")",
    "tags": "<a:" * (N // 3),
    "tag and tags": "<lora:a>" + "<a:" * (N // 3),
    "ands": "AND " * (M // 4),
    "quotes": '("' * (M // 2),
    "signs": "a+" * (M // 2),
    "many signs": "+" * N,
    "groups": "(a)+" * (M // 4),
    "backslashes": "\\" * N,
    "loras": "withLora(" * (N // 9),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_linear_time(text, style):
    began = time.process_time()
    for part in parsed_parts(text, style):
        try:
            part.ranges(3)
        except PromptError:
            continue
    # What grows with the square of the signs takes minutes.
    assert time.process_time() - began < 10


@pytest.mark.parametrize("style", STYLES)
def test_any_text_is_read_or_refused(style):
    draw = random.Random(4)
    for _ in range(500):
        text = noisy(draw)
        for part in parsed_parts(text, style):
            ranges = part.ranges(4)
            weights = [s.weight for r in ranges for section in r.sections for s in section]
            assert all(abs(weight) < 1e9 for weight in weights)
            assert all(s.text for r in ranges for section in r.sections for s in section)


def test_a_style_is_one_of_five():
    with pytest.raises(ValueError, match="'plain', 'keras_sd', 'a1111', 'comfy', 'compel'"):
        parse("a", "A1111")
    with pytest.raises(TypeError, match="not int"):
        parse(3)


def test_brackets_and_edits_are_read_by_themselves():
    assert brackets.comfy("a") == ((Segment("a"),),)
    assert edits.read("a") == ("a",)
