"""Pages to text, repeats, and what may be held out."""

import random

from workloads.decoder_corpus import Document, leading, page_text, split, without_repeats

HTML = """<html><head><title>no</title></head><body><div class="related">no</div><nav>no<p>no</nav>
<h1>A  title<a class="headerlink">¶</a></h1><p>Some
 text &amp; more<br>next</p><script>no</script><pre>a
   b</pre><div class="sphinxsidebar"><img src=x><p>no</div><ul><li>last</li></ul></body></html>"""


def test_a_page_keeps_its_text_and_no_navigation() -> None:
    lines = [line for line in page_text(HTML).split("\n") if line]
    assert lines == ["A title", "Some text & more", "next", "a", "   b", "last"]


def words(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefgh", k=5)) for _ in range(count))


def test_long_lines_are_kept_once_and_tables_not_at_all() -> None:
    shared, short = words(1, 40), "short line"
    pages = [Document(f"p:{i}", f"{shared}\n{short}\n{words(2 + i, 300)}\n") for i in range(2)]
    kept = list(without_repeats([*pages, Document("p:table", "1 2 3 4 5 6 7 8 9 \n" * 300)]))
    assert [page.name for page in kept] == ["p:0", "p:1"]
    assert [shared in page.text for page in kept] == [True, False]
    assert all(short in page.text for page in kept)


def test_near_duplicates_of_training_pages_are_not_held_out() -> None:
    pages = [Document(f"p:{i}", words(i, 2000)) for i in range(80)]  # 12 KB each, 700 KB are about 59 of them
    _, held_out = split(pages)
    assert len(held_out) == 59
    training = [page for page in pages if page not in held_out]
    victim = held_out[0]
    near = Document("p:near", victim.text[: len(victim.text) // 8] + words(99, 20_000))  # too long to be held out
    again, fewer = split([*pages, near])
    assert victim not in fewer
    assert victim not in again
    assert [page.name for page in fewer] == [page.name for page in held_out[1:]]
    assert {page.name for page in again} == {page.name for page in training} | {"p:near"}


def test_leading_pages_fit() -> None:
    pages = [Document("a", "x" * 9), Document("b", "y" * 9), Document("c", "z" * 9)]
    assert leading(pages, 29) == pages[:2]
    assert leading(pages, 30) == pages
