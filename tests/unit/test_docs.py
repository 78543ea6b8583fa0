"""What the documents promise: links lead somewhere, commands parse, numbers and names exist."""

from __future__ import annotations

import importlib
import re
import shlex
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from load_script import REPOSITORY, load_script
from small_models import small_gpt
from torch import Tensor

from tats.flags import Interpolation
from tats.sampling import TokenFilter, Window, fill, infill, sliding, spatial, whole
from tats.sampling.slots import plan_slots

PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]
ROOMS = ("tats", "scripts", "benchmarks")
SOURCES = [
    *REPOSITORY.glob("*.py"),
    *(f for room in ROOMS for f in (REPOSITORY / room).rglob("*.py")),
]
ELSEWHERE = ("SP" + "EC", "DES" + "IGN", "../sha" + "red", "house" + ".md", "differences" + ".md")


def name(file: Path) -> str:
    return str(file.relative_to(REPOSITORY))


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def code_blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_no_file_refers_to_a_document_outside_the_repository() -> None:
    tests = sorted((REPOSITORY / "tests").rglob("*.py"))
    found = [
        f"{name(file)}: {word}"
        for file in (*PAGES, *SOURCES, *tests)
        for word in ELSEWHERE
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", file.read_text(encoding="utf-8"))
    ]
    assert not found


def headings(page: Path) -> set[str]:
    """A page's anchors, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_inside_the_repository_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in headings(file), target


def commands(page: Path) -> Iterator[list[str]]:
    """Words of each ``python x.py …`` line of a page, its shell variables filled in."""
    text = page.read_text(encoding="utf-8")
    inline = [span for span in re.findall(r"`(python [^`]+)`", text) if ".py" in span]
    shell: dict[str, str] = {}
    blocks = "".join(code_blocks(text)).replace("\\\n", " ")
    # A variable's value may go on over several lines.
    lines = re.sub(r'"[^"]*"', lambda value: value[0].replace("\n", " "), blocks).splitlines()
    for line in [*inline, *lines]:
        if assigned := re.match(r"(\w+)=(.*)$", line):
            shell[assigned[1]] = string.Template(assigned[2].strip('"')).safe_substitute(shell)
        elif line.startswith("python ") and ".py" in line:
            yield shlex.split(string.Template(line).safe_substitute(shell), comments=True)[1:]


ALL_COMMANDS = [
    pytest.param(command, id=f"{page.stem}-{number}-{Path(command[0]).stem}")
    for page in PAGES
    for number, command in enumerate(commands(page))
]


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_every_command_of_the_pages_is_understood(command: list[str]) -> None:
    script, *flags = command
    assert (REPOSITORY / script).is_file()
    build_parser = getattr(load_script(script), "build_parser", None)
    if build_parser is not None and flags:
        build_parser().parse_args([flag for flag in flags if flag != "--help"])


def test_the_pages_have_commands() -> None:
    assert len(ALL_COMMANDS) >= 35


def test_every_file_and_test_that_architecture_names_exists() -> None:
    spans = re.findall(r"`([\w./]+)`", read("docs/ARCHITECTURE.md"))
    files = [span for span in spans if re.match(r"(tats|tests|scripts)/", span)]
    assert len(files) >= 15
    assert not [file for file in files if not (REPOSITORY / file).exists()]
    everything = "".join(
        f.read_text(encoding="utf-8") for f in (REPOSITORY / "tests").rglob("*.py")
    )
    tests = [span for span in spans if span.startswith("test_")]
    assert len(tests) >= 10
    assert not [test for test in tests if f"def {test}(" not in everything]


def test_the_table_of_rooms_names_every_folder_and_module() -> None:
    page = read("docs/ARCHITECTURE.md").split("## Where is", 1)[0]
    named = set(re.findall(r"`([\w./*]+)`", page))
    package = REPOSITORY / "tats"
    tools = ["scripts/", "benchmarks/", "notebooks/", "tests/"]
    modules = [name(file) for file in package.glob("*.py") if file.stem != "__init__"]
    folders = [f"{name(file.parent)}/" for file in package.glob("*/__init__.py")]
    taken_apart = ("sampling", "training", "models", "evaluation", "weights")
    files = [file for room in taken_apart for file in package.glob(f"{room}/*.py")]
    inside = [file.stem for file in files if file.stem != "__init__"]
    assert len(modules) >= 10 and len(folders) >= 6 and len(inside) >= 30
    assert not sorted({*tools, *modules, *folders, *inside} - named)


def test_the_paper_is_cited_one_way() -> None:
    for file in SOURCES:
        assert not re.search(r"\bpaper,? (§|section)", file.read_text(encoding="utf-8")), name(file)


def deviations() -> list[int]:
    return [int(n) for n in re.findall(r"^\| D(\d+) \|", read("docs/DEVIATIONS.md"), re.MULTILINE)]


def test_deviations_are_numbered_from_1_without_a_gap() -> None:
    assert deviations() == list(range(1, len(deviations()) + 1))


def test_every_deviation_that_is_cited_exists() -> None:
    known = set(deviations())
    for file in (*PAGES, *SOURCES):
        cited = re.findall(r"\bD(\d{1,2})\b", file.read_text(encoding="utf-8"))
        assert {int(number) for number in cited} <= known, name(file)


def resolve(dotted: str) -> Any:
    """Import the module a dotted name begins with, and look the rest up in it."""
    words = dotted.split(".")
    for end in range(len(words), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(words[:end]))
        except ModuleNotFoundError:
            continue
        for word in words[end:]:
            found = getattr(found, word)
        return found
    raise AssertionError(dotted)


def test_every_name_said_to_be_here_is_here() -> None:
    rows = re.findall(r"^\| (.*) \| (.*) \|$", read("docs/NAMES.md"), re.MULTILINE)
    here = [dotted for _, cell in rows for dotted in re.findall(r"tats(?:\.\w+)+", cell)]
    assert len(here) >= 20
    for dotted in here:
        resolve(dotted)


def algorithm() -> Callable[..., Tensor]:
    """The lines of docs/SAMPLING.md, run as they stand there."""
    (lines,) = [
        block for block in code_blocks(read("docs/SAMPLING.md"), "python") if "def" in block
    ]
    assert len(lines.splitlines()) <= 10
    scope: dict[str, Any] = {"torch": torch}
    exec(lines, scope)
    return scope["fill"]


@pytest.mark.parametrize(
    "schedule",
    [whole(11), sliding(6, 3, 2), spatial((3, 3, 3), (2, 2, 2), 1)],
    ids=["whole", "sliding", "spatial"],
)
def test_the_algorithm_of_the_page_is_what_fill_does(schedule: list[Window]) -> None:
    gpt = small_gpt(vocab_size=40)
    canvas = torch.full((2, max(window.write[-1] for window in schedule) + 1), -1)
    condition = torch.randint(40, (2, 1))
    greedy = TokenFilter(temperature=0.0)
    with torch.no_grad():
        expected = algorithm()(gpt, canvas, condition, schedule)
    assert torch.equal(fill(gpt, canvas, condition, schedule, token_filter=greedy), expected)


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [("whole", whole(4)), ("sliding", sliding(6, 1, 2)), ("infill", infill(9, 1, 4))],
)
def test_the_drawings_show_what_the_schedules_do(kind: str, schedule: list[Window]) -> None:
    drawing = code_blocks(read("docs/SAMPLING.md").split(f"**`{kind}(", 1)[1])[0]
    rows = [line.split()[2:] for line in drawing.splitlines() if line.startswith("window")]
    assert len(rows) == len(schedule)
    for window, row in zip(schedule, rows, strict=True):
        for mark, indices in (("W", window.write), ("p", window.past), ("f", window.future)):
            assert tuple(i for i, cell in enumerate(row) if cell == mark) == indices


def slot_table(interpolation: str) -> list[dict[str, str]]:
    """A slot table of docs/SAMPLING.md: one slot a column, what each row says of it."""
    before = {"trained": "`--interpolation trained`", "released": "(`released`, the default)"}
    table = code_blocks(read("docs/SAMPLING.md").split(before[interpolation], 1)[1])[0]
    ends = [number.end() for number in re.finditer(r"\d+", table.splitlines()[0])]
    slots: list[dict[str, str]] = [{} for _ in ends]
    for line in table.splitlines():
        row, *_ = line.split()
        for cell in re.finditer(r"\S+", line[len(row) :]):
            slots[ends.index(len(row) + cell.end())][row] = cell[0]
    return slots


@pytest.mark.parametrize("interpolation", ["trained", "released"])
def test_the_slot_tables_show_how_a_window_is_laid_out(interpolation: Interpolation) -> None:
    gpt = small_gpt(vocab_size=40, block_size=12, n_unmasked=3)
    (window,) = infill(4, 3, 3)
    plan = plan_slots(gpt, window, 1, interpolation)
    reads = ["c", *map(str, plan.canvas_indices)]
    writers = [plan.read_slot, *range(plan.n_prefill, len(reads))]
    predicts = dict(zip(writers, window.write, strict=True))
    assert slot_table(interpolation) == [
        {"slot": str(slot), "reads": token, "position": str(int(position))}
        | ({"predicts": str(predicts[slot])} if slot in predicts else {})
        for slot, (token, position) in enumerate(zip(reads, plan.positions, strict=True))
    ]
