"""The command `simsiam`: its words, its help, and what it says to a mistake."""

import importlib
import os
import shutil
import subprocess
import sys

import pytest

import simsiam_jax
from simsiam_jax.cli import main
from tests.support.launchers import ROOT, refused


def simsiam(*words, cwd=ROOT):
    """Runs `python -m simsiam_jax` with the package of this working tree."""
    return subprocess.run(
        [sys.executable, "-m", "simsiam_jax", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def in_this_process(monkeypatch, capsys, *words):
    """Exit code and output of `main`, for words that need no command."""
    monkeypatch.setattr(sys, "argv", ["simsiam", *words])
    with pytest.raises(SystemExit) as end:
        main.main()
    return end.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_begins_with_an_example_and_lists_every_command(monkeypatch, capsys, word):
    code, out, err = in_this_process(monkeypatch, capsys, word)
    assert (code, err) == (0, "")
    head, _, rest = out.partition("Example: simsiam study photos")
    assert len(head.strip().splitlines()) == 2
    assert all(f"simsiam {name} " in rest for name in main.COMMANDS)


def test_without_a_word_the_list_comes_with_exit_code_2(monkeypatch, capsys):
    code, out, _ = in_this_process(monkeypatch, capsys)
    assert code == 2
    assert "simsiam study" in out


def test_version_is_the_package_s(monkeypatch, capsys):
    assert in_this_process(monkeypatch, capsys, "--version") == (0, f"simsiam_jax {simsiam_jax.__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "hint"), [("studdy", "did you mean study?"), ("expor", "did you mean export?"), ("xyz", "known are study")]
)
def test_an_unknown_command_is_one_line_with_a_near_one(monkeypatch, capsys, word, hint):
    code, out, err = in_this_process(monkeypatch, capsys, word)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: simsiam has no command {word!r}; {hint}")
    assert len(err.splitlines()) == 1


def test_the_list_is_printed_without_jax():
    code = "import sys; from simsiam_jax.cli.main import overview; overview(); print('jax' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_help_of_a_command_begins_with_an_example(name):
    text = importlib.import_module(f"simsiam_jax.cli.commands.{name}").__doc__
    _, blank, example = text.splitlines()[:3]
    assert blank == ""
    assert example.startswith(f"Example: simsiam {name}")


def test_a_command_prints_its_help_and_flags():
    result = simsiam("study", "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[2].startswith("Example: simsiam study photos")
    assert "--labels_per_class=20" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study"], ["FOLDER is missing", "simsiam study --help"]),
        (["study", "digits", "--dataset=digits"], ["--dataset=digits and digits are two ways", "give one"]),
        (["study", "no/such/folder"], ["no/such/folder is no folder and no data set", "digits"]),
        (["study", "digits", "more"], ["unknown argument 'more'", "FOLDER"]),
        (["pretrain", "digits", "--no_such_flag=1"], ["no_such_flag"]),
        (["tables", "table9"], ["no experiment 'table9'", "table1_cifar10"]),
        (["completion", "fish"], ["no completion for 'fish'", "bash, zsh"]),
        (["report"], ["WORKDIR is missing", "simsiam report runs/"]),
    ],
)
def test_a_mistake_in_the_words_is_one_line(words, said):
    refused(simsiam(*words), *said)


@pytest.fixture(scope="module")
def completion(tmp_path_factory):
    """The scripts, and a folder to complete in."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "photos").mkdir()
    (folder / "labels.csv").touch()
    for shell in ("bash", "zsh"):
        result = simsiam("completion", shell)
        assert result.returncode == 0, result.stderr
        (folder / shell).write_text(result.stdout)
    return folder


# Readline makes a word of its own of each equals sign.
COMPLETIONS = [
    (["s"], ["study"]),
    (["pre"], ["predict", "prepare", "pretrain"]),
    (["study", "--bac"], ["--backbone"]),
    (["study", "--preset", ""], ["full", "small", "smoke"]),
    (["study", "--preset", "="], ["full", "small", "smoke"]),
    (["study", "--preset", "=", "s"], ["small", "smoke"]),
    (["study", "--width", "=", "2", "--dtype", "=", "b"], ["bfloat16"]),
    (["study", "--arms", "=", ""], ["in_domain", "none", "random"]),
    (["study", "ph"], ["photos"]),
    (["study", "--labels", "=", "lab"], ["labels.csv"]),
    (["tables", "table1"], ["table1_cifar10", "table1_fashion_mnist"]),
    (["completion", "z"], ["zsh"]),
]


@pytest.mark.parametrize(("words", "expected"), COMPLETIONS)
def test_bash_completes(completion, words, expected):
    script = """
        source ./bash
        COMP_WORDS=(simsiam "$@") COMP_CWORD=$#
        function=$(complete -p simsiam | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        $function simsiam
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    answer = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", *words], cwd=completion, capture_output=True, text=True, check=True
    )
    assert sorted(answer.stdout.split()) == expected


def test_zsh_accepts_its_script(completion):
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("no zsh at hand")
    subprocess.run([zsh, "-n", completion / "zsh"], check=True)


def test_zsh_s_script_names_commands_and_choices(completion):
    script = (completion / "zsh").read_text()
    assert script.startswith("#compdef simsiam")
    assert all(f'"{name}:' in script or f"{name}:" in script for name in main.COMMANDS)
    assert "(smoke small full)" in script
