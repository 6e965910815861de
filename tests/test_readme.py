"""What the README files ask a reader to paste works as it stands."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.support.launchers import command_faults

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "experiments/README.md",
    "experiments/PAPER.md",
    "experiments/benchmark/README.md",
    "simsiam_jax/data/README.md",
    "simsiam_jax/models/README.md",
    "simsiam_jax/weights/README.md",
)


def blocks(page, language=None):
    """The fenced blocks of a page; those of one language alone where it is given."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if language in (None, name)]


def commands(page):
    """The commands in the fenced blocks of a page, each as the launcher's module, or `simsiam`, and its arguments."""
    lines = "".join(blocks(page)).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        _, start, rest = line.partition("python -m experiments.")
        if start:
            module, *arguments = shlex.split(rest, comments=True)
            found.append([f"experiments.{module}", *(word for word in arguments if word != "&")])
        elif line.startswith("simsiam "):
            found.append(shlex.split(line, comments=True))
        elif "command: [python, -m, " in line:
            found.append(line.split("[python, -m, ")[1].rstrip("]").split(", "))
    return found


def test_the_main_readme_is_at_most_150_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_python_blocks_run_as_pasted(page):
    for text in blocks(page, "python"):
        names = {"__name__": "__main__"}
        exec(compile(text, page, "exec"), names)
        assert all(np.isfinite(value).all() for name, value in names.items() if name == "loss")


def test_the_main_readme_shows_how_to_compute_the_loss():
    assert any("loss = " in text for text in blocks("README.md", "python"))


def test_commands_name_launchers_and_flags_that_exist():
    asked = [command for page in PAGES for command in commands(page)]
    assert len(asked) > 20
    assert command_faults(asked) == []


COMMANDS_WITH_FAULTS = (
    ["experiments.no_such"],
    ["experiments.demo", "--no_such_flag=1"],
    ["simsiam", "no_such"],
    ["simsiam", "study"],
    ["simsiam", "study", "photos", "more"],
    ["simsiam", "study", "photos", "--no_such_flag=1"],
)


@pytest.mark.parametrize("command", COMMANDS_WITH_FAULTS)
def test_a_command_that_does_not_exist_is_found_out(command):
    assert len(command_faults([command])) == 1


@pytest.mark.parametrize("page", [*PAGES, "experiments/results/README.md"])
def test_links_and_pictures_lead_to_files_of_the_repository(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page):
    """The anchors that a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_code_cites_sections_that_the_paper_page_has():
    headings = set(re.findall(r"^#+ (.*)$", (ROOT / "experiments/PAPER.md").read_text(), flags=re.MULTILINE))
    cited = [
        section
        for folder in ("simsiam_jax", "experiments", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != Path(__file__)
        for names in re.findall(r'PAPER\.md`?, ((?:"[^"\n]+"(?:,? (?:and )?)?)+)', path.read_text())
        for section in re.findall(r'"([^"]+)"', names)
    ]
    assert len(cited) >= 7
    assert set(cited) <= headings
