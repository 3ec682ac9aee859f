"""Request trees: text form, JSON form and its limits, passes, pictures."""

import re

import pytest

import sgl_lang as sgl
from sgl_lang import passes
from sgl_lang.testing import FakeBackend
from sgl_lang.tree import End, Extend, Fork, Gen, RequestTree, Text, TreeLimits, Value


@sgl.function
def judge(s, essay):
    s += sgl.user(f"Judge:\n{essay}")
    with s.assistant():
        forks = s.fork(2)
        forks += lambda at: ["clarity ", "style "][at]
        forks += sgl.gen("score", regex="[1-5]", max_tokens=2)
        forks.join()
        s += f"Scores {s['score'][0]} and {s['score'][1]}: "
        s += sgl.select("verdict", ["good", "bad"])


TEXT = """\
0 role_begin user
0 text "Judge:\\n«é»"
0 role_end
0 role_begin assistant
0 fork 1 2
1 text "clarity "
2 text "style "
1 gen #6 score max_tokens=2 regex="[1-5]"
2 gen #7 score max_tokens=2 regex="[1-5]"
1 end
2 end
0 join 1 2 gather
0 text "Scores "
0 value #6
0 text " and "
0 value #7
0 text ": "
0 select #14 verdict ["good", "bad"] token_length_normalized
0 role_end
end
"""


def test_text_form():
    assert judge.compile("«é»").render() == TEXT


def test_json_form():
    tree = judge.compile("x")
    data = tree.to_json()
    assert data.startswith(b'{"version":1,')
    assert RequestTree.from_json(data) == tree
    assert RequestTree.from_json(data.decode()) == tree


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "request tree"),
        ('{"version":2}', "version 2 is not 1"),
        ('{"operations":[{"type":"jump"}]}', "Invalid value 'jump'"),
        ('{"operations":[{"type":"extend","branch":0,"nodes":[],"x":1}]}', "unknown field `x`"),
        ('{"operations":[{"type":"extend","branch":1,"nodes":[]}]}', r"operations\[0\]: unknown branch 1"),
        ('{"operations":[{"type":"fork","branch":0,"children":[0]}]}', "branch 0 exists already"),
    ],
)
def test_bad_json_is_refused_by_place(data, message):
    with pytest.raises(sgl.InvalidRequest, match=message):
        RequestTree.from_json(data)


def tree_of(*operations):
    return RequestTree(operations=operations).to_json()


def text(node, branch=0):
    return Extend(branch=branch, nodes=(Text(id=node, text="a"),))


def test_limits_on_size():
    deep = tree_of(*(Fork(branch=at, children=(at + 1,)) for at in range(5)))
    RequestTree.from_json(deep)
    for data, limits, message in (
        (deep, TreeLimits(depth=4), "deeper than 4"),
        (deep, TreeLimits(bytes=10), "the limit is 10"),
        (tree_of(text(1), text(2)), TreeLimits(nodes=1), "more than 1 nodes"),
        (tree_of(Fork(branch=0, children=(1, 2, 3))), TreeLimits(branches=3), "more than 3 branches"),
        (tree_of(Fork(branch=0, children=(1, 2, 3))), TreeLimits(width=2), "a fork of more than 2"),
        (tree_of(text(1), text(1)), TreeLimits(), "node 1 exists already"),
        (tree_of(Extend(branch=0, nodes=(Value(id=2, of=1),))), TreeLimits(), "unknown node 1"),
    ):
        with pytest.raises(sgl.InvalidRequest, match=message):
            RequestTree.from_json(data, limits)


def test_merge_text():
    @sgl.function
    def program(s):
        s += "a"
        s += "b"
        s += sgl.gen("x") + "c" + "d"

    tree = program.compile(merge_text=False)
    assert passes.merge_text(tree).render() == '0 text "ab"\n0 gen #2 x\n0 text "cd"\nend\n'
    assert passes.optimise(tree, merge=False) == tree


def test_splice_known():
    @sgl.function
    def program(s):
        s += sgl.select("only", ["one"]) + sgl.gen("free")
        s += f"{s['only']}/{s['free']}"

    tree = passes.splice_known(program.compile())
    assert tree.render().splitlines()[2:] == ['0 text "one"', '0 text "/"', "0 value #1", "end"]
    spliced = passes.splice_known(program.compile(), {1: "known"})
    assert '0 text "known"' in spliced.render()


def test_dead_branches_are_dropped():
    @sgl.function
    def program(s):
        alive, dead, joined = s.fork(3)
        alive += sgl.gen("x")
        dead += "never read"
        dead.fork(2)[0].append("nor this")
        joined += "joined"
        inner = dead.fork(1)
        inner[0].append("?")
        s += "end"

    tree = passes.drop_dead_branches(program.compile())
    assert tree.render() == '0 fork 1\n1 gen #0 x\n0 text "end"\nend\n'


def test_branches_that_matter_are_kept():
    tree = judge.compile("x")
    assert passes.drop_dead_branches(tree) == tree


def test_shared_prefix():
    trees = [judge.compile("the same start of it"), judge.compile("the same stars")]
    prefix = passes.shared_prefix(trees)
    assert prefix.render() == '0 role_begin user\n0 text "Judge:\\nthe same"\nend\n'
    assert passes.shared_prefix(trees[:1]) is None
    other = RequestTree(operations=(Extend(branch=0, nodes=(Gen(id=0),)), End()))
    assert passes.shared_prefix([trees[0], other]) is None


def test_running_a_stored_tree_gives_the_same():
    backend = FakeBackend({"score": ["4", "5"]})
    state = judge.run("x", backend=backend)
    stored = RequestTree.from_json(judge.compile("x").to_json())
    again = sgl.run_tree(stored, backend=FakeBackend({"score": ["4", "5"]}))
    assert again.text() == state.text()
    assert again["verdict"] == "good"
    assert [str(score) for score in again["score"]] == ["4", "5"]


@pytest.fixture
def finished():
    return judge.run("<b>&x</b>", backend=FakeBackend({"score": ["4", "5"]}), trace=True)


def test_marked_text(finished):
    assert finished.render() == (
        "[user] Judge:\n<b>&x</b>\n[assistant] \n  ─ branch 1\n    clarity «4»\n  ─ branch 2\n    style «5»\n"
        "Scores 4 and 5: «good»"
    )
    assert "\033[32mgood\033[0m" in finished.render(color=True)


def test_text_tree(finished):
    lines = finished.render("tree").splitlines()
    assert lines[0] == "judge"
    assert lines[5] == "├─ branch 1"
    assert lines[7] == "│  └─ gen #6 score max_tokens=2 regex=\"[1-5]\" → '4' (1 decoded)"
    assert lines[-1] == "└─ role_end"


def test_usage_table_and_timeline(finished):
    table = finished.render("usage").splitlines()
    assert table[0].split() == ["prompt", "cached", "forced", "decoded", "time"]
    assert [line.split()[0] for line in table[2:]] == [
        "verdict",
        "score",
        "score",
        "─" * len(table[1]),
        "judge",
    ]
    assert len(finished.render("timeline").splitlines()) == 4


def test_mermaid(finished):
    lines = finished.render("mermaid").splitlines()
    assert lines[0] == "flowchart TD"
    assert '    n1["Judge: #lt;b#gt;#amp;x#lt;/b#gt;"]' in lines
    assert "    n6 -.-> n10" in lines
    assert "    n6 --> n8" in lines
    assert "    n3 --> n4" in lines


def test_html_is_self_contained_and_escaped(finished):
    page = finished.render("html")
    assert "<b>&x</b>" not in page
    assert "&lt;b&gt;&amp;x&lt;/b&gt;" in page
    assert not re.search(r"<script|src=|href=|url\(|@import", page)
    assert "0 prompt · 0 cached · 0 forced · 1 decoded · 0.0 ms" in page
    assert "1 tokens, 0 cached" in page
    assert "<svg" in page


def test_failed_nodes_are_shown():
    state = judge.stream("x", backend=FakeBackend({"score": sgl.EngineFailure("out <of> luck")}))
    with pytest.raises(sgl.EngineFailure):
        list(state.text_iter())
    assert "out <of> luck" in state.render()
    assert "✗ out <of> luck" in state.render("tree")
    assert "out &lt;of&gt; luck" in state.render("html")


def test_unknown_forms_are_refused(finished):
    with pytest.raises(sgl.InvalidRequest, match="'pdf' is none of"):
        finished.render("pdf")
