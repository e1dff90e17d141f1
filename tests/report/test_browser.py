"""The page of a real run, as a real browser has it."""

import functools
import json

import pytest
from PIL import Image

from mlvlab_jax.report.page import write_report
from tests import browsing
from tests.browsing import Document, listening, needs_browser
from tests.report.runs import SECTIONS, make_evaluation, write_run


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    return functools.partial(browsing.browse, profile=tmp_path_factory.mktemp("profile"))


@pytest.fixture
def requests():
    with listening() as server:
        yield server


@needs_browser
def test_the_page_of_a_trained_run_opens(trained, browse):
    document = Document(browse(trained / "report.html", "--dump-dom"))
    assert [each["id"] for each in document.all("section")] == SECTIONS
    charts = [each.get("aria-label", "") for each in document.all("svg")]
    summary = json.loads((trained / "summary.json").read_text())
    accuracy = next(label for label in charts if label.startswith("Accuracy"))
    assert f"validation ends at {100 * summary['last']['validation/accuracy']:.4g}" in accuracy
    assert {label.split(" ")[0] for label in charts} >= {"Loss", "Learning", "Throughput", "Input", "Confusion"}
    evaluation = json.loads((trained / "evaluation" / "test" / "evaluation.json").read_text())
    assert len(document.all("img")) == len(evaluation["mistakes"])


@needs_browser
def test_hostile_names_ask_for_nothing_and_run_nothing(tmp_path, browse, requests):
    address, asked = requests
    control = tmp_path / "control.html"
    control.write_text(f'<img src="{address}/control">')
    browse(control, "--dump-dom")
    assert asked == ["/control"]  # the browser reaches the server, so what follows can fail

    attack = f"<img src={address}/a onerror=\"document.title='owned'\"><script src={address}/b></script>"
    names = [f"{attack}</title><link rel=stylesheet href={address}/c>{k}" for k in range(4)]
    folder = write_run(tmp_path / "run", class_names=names)
    document = Document(browse(write_report(folder), "--dump-dom"))
    assert asked == ["/control"]
    assert document.all("script") == document.all("link") == []
    images = [each["src"] for each in document.all("img")]
    assert len(images) == len(make_evaluation(names)["mistakes"])
    assert all(source.startswith("data:image/png;base64,") for source in images)


@needs_browser
def test_the_policy_stops_what_escaping_would_miss(tmp_path, browse, requests):
    address, asked = requests
    path = write_report(write_run(tmp_path / "run"))
    inside = f"<img src='{address}/a'><script>document.body.id = 'owned'</script><iframe src='{address}/b'></iframe>"
    path.write_text(path.read_text().replace("<main>", f"<main>{inside}"))
    document = Document(browse(path, "--dump-dom"))
    assert asked == []
    assert "id" not in document.all("body")[0]


@needs_browser
@pytest.mark.parametrize(("mode", "paper"), [("light", (255, 255, 255)), ("dark", (20, 24, 30))])
def test_it_is_drawn_light_and_dark(tmp_path, browse, mode, paper):
    path = write_report(write_run(tmp_path / "run"))
    shot = tmp_path / "page.png"
    dark = ("--blink-settings=preferredColorScheme=0",) if mode == "dark" else ()
    browse(path, *dark, "--window-size=1280,1600", f"--screenshot={shot}")
    image = Image.open(shot).convert("RGB")
    assert image.getpixel((2, 2)) == paper
    counts = image.quantize(64).getcolors()
    assert len(counts) > 20
    assert max(number for number, _ in counts) < 0.99 * image.width * image.height
