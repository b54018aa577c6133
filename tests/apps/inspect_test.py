"""gsa inspect: layout and selection as JSON, text and HTML."""

import html.parser

import pytest

from conftest import FOX


@pytest.fixture
def inspect(gsa, model, document):
    def run(*args, doc=document):
        return gsa("inspect", "--model", model, "--doc", doc, *args)

    return run


@pytest.mark.parametrize("policy, num_levels", [("gsa@16", 1), ("gsa@4-4", 2), ("meanpool@8", 1), ("full", 0)])
def test_nodes_cover_the_text_without_gaps(inspect, policy, num_levels):
    view = inspect("--policy", policy, "--json").json()
    assert len(view["levels"]) == num_levels
    below = view["context_tokens"]
    for level in view["levels"]:
        end = 0
        for node in level["nodes"]:
            assert node["children"][0] == end
            end = node["children"][1]
        assert end == below
        below = len(level["nodes"])


def test_chunks_spell_the_document(inspect):
    view = inspect("--policy", "gsa@8", "--json").json()
    assert [piece["name"].rsplit("/")[-1] for piece in view["pieces"]] == ["opening of the chat", "fox.txt"]
    begin = view["pieces"][1]["begin"]
    text = "".join(chunk["text"] for chunk in view["chunks"] if chunk["tokens"][0] >= begin)
    assert text == FOX * 6


def test_selected_chunks_exist(inspect):
    view = inspect("--policy", "meanpool@8:tokens=16", "--question", "Who jumps?", "--json").json()
    assert view["layers"], "the policy selects"
    assert view["question"] == "Who jumps?"
    for layer in view["layers"]:
        for head in layer["chunks"]:
            assert head == sorted(set(head))
            assert all(0 <= chunk < len(view["chunks"]) for chunk in head)
    assert any(head for layer in view["layers"] for head in layer["chunks"])


def test_picture_shows_chunks_and_sections(inspect):
    result = inspect("--policy", "gsa@4-4")
    assert result.code == 0
    assert "└ G 0: g 0.." in result.out
    assert "quick brown" in result.out


def test_picture_hides_what_no_layer_unfolded(inspect):
    args = ("--policy", "meanpool@4:tokens=4", "--question", "Who?")
    short, complete = inspect(*args).out, inspect(*args, "--all").out
    assert "not unfolded" in short and "not unfolded" not in complete
    assert len(short.splitlines()) < len(complete.splitlines())


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []
        self.links = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_page_is_self_contained_and_escapes_the_text(inspect, tmp_path):
    hostile = '<script>alert("x")</script> & <b>fox</b> '
    document = tmp_path / "hostile <i>.txt"
    document.write_text(hostile * 5)
    out = tmp_path / "page.html"
    question = "<script>who</script>?"
    result = inspect("--policy", "meanpool@8", "--question", question, "--html", out, doc=document)
    assert result.code == 0 and result.out == ""
    source = out.read_text()
    page = Page()
    page.feed(source)
    assert "script" not in page.tags and "b" not in page.tags and "i" not in page.tags and page.links == []
    assert question in page.text and "hostile <i>.txt" in page.text
    assert "prefers-color-scheme: dark" in source


class Drawing(html.parser.HTMLParser):
    """What a page shows: texts and titles of the chunks, marks of the map; and whether its tags are balanced."""

    VOID = {"meta"}
    OPTIONAL_END = {"html", "p", "tr", "td"}

    def __init__(self):
        super().__init__()
        self.open = []
        self.chunks = []
        self.marks = {}
        self.num_gists = 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID | self.OPTIONAL_END:
            self.open.append((tag, attributes))
        if "chunk" in attributes.get("class", "").split():
            self.chunks.append([attributes, ""])
        if tag == "rect":
            self.marks[int(attributes["y"]), int(attributes["x"])] = float(attributes["opacity"])
        self.num_gists += attributes.get("class") == "gist"

    def handle_endtag(self, tag):
        if tag not in self.OPTIONAL_END:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and "chunk" in self.open[-1][1].get("class", "").split():
            self.chunks[-1][1] += data


@pytest.mark.parametrize("policy", ["meanpool@8:tokens=16", "gsa@4-4:tokens=16", "gsa@16"])
def test_page_draws_what_the_json_says(inspect, tmp_path, policy):
    out = tmp_path / "page.html"
    args = ("--policy", policy, "--question", "Who jumps?")
    result = inspect(*args, "--json", "--html", out)
    view, drawing = result.json(), Drawing()
    drawing.feed(out.read_text())
    assert drawing.open == []
    assert [text for _, text in drawing.chunks] == [chunk["text"] for chunk in view["chunks"]]
    assert drawing.num_gists == sum(len(level["nodes"]) for level in view["levels"])

    marks = {}
    for row, layer in enumerate(view["layers"]):
        for head in layer["chunks"]:
            for chunk in head:
                marks[row, chunk] = marks.get((row, chunk), 0) + 1 / len(layer["chunks"])
    assert marks and drawing.marks == pytest.approx(marks, abs=0.006)
    for idx, (attributes, _) in enumerate(drawing.chunks):
        num_layers = sum(1 for row, chunk in marks if chunk == idx)
        share = float(attributes["style"].removeprefix("--share:"))
        assert share == pytest.approx(num_layers / len(view["layers"]), abs=0.001)
        begin, end = view["chunks"][idx]["tokens"]
        assert f"chunk {idx}, tokens {begin} to {end - 1}" in attributes["title"]


def test_page_that_cannot_be_written(inspect, tmp_path):
    result = inspect("--html", tmp_path / "no" / "folder.html")
    assert result.code == 1 and "folder.html" in result.error_line()
