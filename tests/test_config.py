"""Composing: what wins over what, what is refused and how it is told, and what may change when a run goes on."""

from __future__ import annotations

import csv
import json
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from PIL import Image

from genai import config as configs
from genai import registry
from genai.cli.completion import complete, complete_setting
from genai.cli.json_schema import json_schema
from genai.errors import CheckpointError, ConfigError, ConfigErrors, DataError, Interrupted, SecurityError, to_list
from genai.schema import Config, plain
from genai.search_path import SearchPath, where

pytestmark = pytest.mark.usefixtures("workplace")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(model: str, *overrides: str, dirs: tuple[Path, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configs.compose_train(model, overrides, dirs)
    return caught.value.lines()


# -- what wins ---------------------------------------------------------------------------------------------------------


def test_command_line_beats_preset_beats_model_beats_group(tmp_path: Path) -> None:
    preset = "# @package _global_\nseed: 5\noptim: {lr: 0.5}\ntrainer: {batch_size: 7, max_steps: 3}\n"
    write(tmp_path, "more/experiment/gan/mine.yaml", preset)
    model = yaml.safe_load(where("model=gan").read_text())
    group = yaml.safe_load(where("optim=sgd").read_text())
    plain_run = configs.compose_train("gan", ["optim=sgd"])
    run = configs.compose_train("gan", ["experiment=gan/mine", "trainer.batch_size=9"], [tmp_path / "more"])
    assert (run.trainer.batch_size, run.trainer.max_steps) == (9, 3)  # typed; preset
    assert (run.optim.lr, run.seed) == (0.5, 5)  # preset over model
    assert plain_run.optim.schedule == run.optim.schedule == model["optim"]["schedule"]  # where the preset is silent
    assert plain_run.optim.lr == model["optim"]["lr"] != group["lr"]  # model over its group
    assert run.trainer.keep == 2  # group


def test_a_preset_works_with_other_data_than_its_own(tmp_path: Path) -> None:
    preset = "# @package _global_\ndefaults:\n  - override /data: digits\ndata: {size: 16}\n"
    write(tmp_path, "genai_configs/experiment/gan/mine.yaml", preset)
    assert configs.compose_train("gan", ["experiment=gan/mine"]).data.name == "digits"
    other = configs.compose_train("gan", ["experiment=gan/mine", "data=fashion_mnist"])
    assert (other.data.name, other.data.size) == ("fashion_mnist", 16)


def test_the_environment_names_the_runs_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configs.compose_train("gan", []).run.root == "runs"
    monkeypatch.setenv("GENAI_RUNS", "elsewhere")
    assert configs.compose_train("gan", []).run.root == "elsewhere"
    assert configs.compose_train("gan", ["run.root=typed"]).run.root == "typed"


def test_the_net_follows_the_data_and_keeps_what_was_typed() -> None:
    image = configs.compose_train("gan", ["data=digits"])
    points = configs.compose_train("gan", ["data=ring8", "net.width=7"])
    assert (image.net.name, points.net.name) == ("conv", "mlp")
    assert plain(points.net) == {**plain(configs.compose_train("gan", ["data=ring8"]).net), "width": 7}
    assert configs.compose_train("gan", ["data=digits", "net=mlp"]).net.name == "mlp"


def test_settings_for_a_kind_of_data_give_way_to_presets_and_to_what_is_typed(tmp_path: Path) -> None:
    stated = yaml.safe_load(where("model=gan").read_text())["model"]["by_modality"]["points"]
    pictures, points = configs.compose_train("gan", []), configs.compose_train("gan", ["data=ring8"])
    assert points.trainer.batch_size == stated["trainer"]["batch_size"] != pictures.trainer.batch_size
    assert plain(points.model).items() >= stated["model"].items()
    assert plain(points.net)["fourier_features"] == stated["net"]["fourier_features"]
    write(tmp_path, "more/experiment/gan/mine.yaml", "# @package _global_\ntrainer: {batch_size: 7}\n")
    preset = configs.compose_train("gan", ["experiment=gan/mine", "data=ring8"], [tmp_path / "more"])
    assert (preset.experiment, preset.trainer.batch_size) == ("gan/mine", 7)
    assert preset.trainer.ema_half_life_samples == stated["trainer"]["ema_half_life_samples"]
    assert configs.compose_train("gan", ["data=ring8", "trainer.batch_size=9"]).trainer.batch_size == 9
    assert configs.compose_train("gan", ["data=ring8", "net=conv"]).net.name == "conv"
    jobs = configs.run_hydra("gan", ["data=ring8,digits"], [], lambda c: c.trainer.batch_size, multirun=True)
    assert [job.value for job in jobs] == [stated["trainer"]["batch_size"], pictures.trainer.batch_size]


def test_a_path_alone_decides_the_kind_of_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "points.npz", x=np.zeros((20, 2), np.float32))
    (tmp_path / "图 片").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "图 片" / "0.png")
    points = configs.compose_train("gan", ["data.path=points.npz"])
    images = configs.compose_train("gan", ["data.path=图 片"])
    assert (points.data.name, points.net.name) == ("path", "mlp")
    assert (images.data.name, images.net.name, images.data.path) == ("path", "conv", "图 片")
    assert configs.compose_train("gan", ["data=digits", "data.path=x"]).data.name == "digits"
    assert configs.compose_train("gan", ["data.path=null"]).data.name == "fashion_mnist"


def test_a_path_that_is_no_data_is_told_after_all_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        configs.compose_train("gan", ["data.path=nothing"])
    assert len(mistakes("gan", "data.path=nothing", "optim.lrr=1")) == 1


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_together_with_the_nearest_key(tmp_path: Path) -> None:
    preset = "# @package _global_\nmodel: {latent_dims: 3}\ntrainer: {max_step: 5}\nlrr: 1\n"
    write(tmp_path, "genai_configs/experiment/gan/typos.yaml", preset)
    told = mistakes("gan", "experiment=gan/typos", "optim.lr=fast", "net.widht=3", "data=digts", "seed=-1")
    expected = [
        ("unknown data set 'digts'", "did you mean 'digits'?"),
        ("unknown key 'model.latent_dims'", "did you mean 'model.latent_dim'?"),
        ("unknown key 'net.widht'", "did you mean 'net.width'?"),
        ("'optim.lr' is 'fast', expected a number", "optim.lr=VALUE"),
        ("unknown key 'trainer.max_step'", "did you mean 'trainer.max_steps'?"),
        ("'seed' is -1, expected a number at least 0", "seed=VALUE"),
        ("unknown key 'lrr'", "choose one of"),
    ]
    for what, fix in expected:
        assert any(what in line and fix in line for line in told), (what, told)
    assert len(told) == len(expected)


def test_eight_mistakes_at_most_are_told() -> None:
    assert len(mistakes("gan", *(f"optim.x{i}=1" for i in range(12)))) == 8


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("optim=adm", "did you mean 'adam'?"),
        ("net=cnv", "did you mean 'conv'?"),
        ("experiment=gan/nothing", "unknown preset"),
        ("experiment=vae/fsq", "vae/fsq"),
        ("+experiment=gan/x", "type experiment=gan/x"),
        ("++seed=1", "type seed=1"),
        ("~data", "type data=null"),
        ("trainer.max_steps=1,2", "add -m"),
        ("data=digits,ring8", "add -m"),
        ("model=gan2", "the word after the verb"),
        ("data={path: x}", "unknown data set"),
        ("foo", "expected KEY=VALUE"),
        ("=3", "no key"),
        ("a b=3", "no key"),
        ("optim..lr=3", "no key"),
        ("hydra.searchpath=[x]", "type -C FOLDER"),
        ("hydra.mode=MULTIRUN", "type -m"),
        ("hydra.nonsense=1", "cannot be composed"),
        ("run.name=${nothing}", "cannot be composed"),
        ("seed=" + "9" * 5000, "expected a whole number"),
        ("seed=" + "[" * 3000 + "]" * 3000, "expected a whole number"),
        ("seed=" + "9" * 4000, "expected at most 63 bits"),
        ("optim.lr=" + "9" * 4000, "expected a number"),
        ("data=null", "unknown data set 'null'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_type(typed: str, told: str) -> None:
    lines = mistakes("gan", typed)
    assert len(lines) == 1
    assert told in lines[0]
    assert len(lines[0]) < 500


def test_the_same_key_twice_must_agree() -> None:
    assert "given twice" in mistakes("gan", "seed=1", "seed=2")[0]
    assert "given twice" in mistakes("gan", "data=digits", "data=ring8")[0]
    assert configs.compose_train("gan", ["seed=1", "seed=1"]).seed == 1


def test_a_preset_of_another_model_names_that_model(tmp_path: Path) -> None:
    write(tmp_path, "genai_configs/experiment/other/mine.yaml", "# @package _global_\nseed: 1\n")
    assert "genai train other experiment=other/mine" in mistakes("gan", "experiment=other/mine")[0]


def test_an_unknown_model_or_folder_is_told() -> None:
    assert "did you mean 'gan'?" in mistakes("gann")[0]
    assert "nowhere" in mistakes("gan", dirs=(Path("nowhere"),))[0]


def test_broken_yaml_of_a_user_is_a_mistake_not_a_crash(tmp_path: Path) -> None:
    for content in ("a: [1", "- just\n- a list", "\x00", "a: !!python/object/apply:os.getcwd []"):
        write(tmp_path, "genai_configs/experiment/gan/broken.yaml", content)
        assert mistakes("gan", "experiment=gan/broken")


def test_a_preset_without_its_first_line_says_so(tmp_path: Path) -> None:
    write(tmp_path, "genai_configs/experiment/gan/mine.yaml", "seed: 3\n")
    assert "# @package _global_" in mistakes("gan", "experiment=gan/mine")[0]


# -- values that Hydra's grammar cannot read ---------------------------------------------------------------------------

NASTY = [
    "数据/图 片",
    "a b",
    "a,b",
    "(x)",
    "a=b",
    "#1",
    "x~y",
    "it's",
    'say "x"',
    "back\\slash\\",
    "'quoted",
    "[list]",
    "{a: 1}",
    "a:b",
    "%41",
    "*",
    "$HOME",
    "1e3",
    "true",
    "007",
    "-x",
    "x ",
    " x",
    "\t",
    "new\nline",
    "a,b,c=(1,2)#~'\"\\",
    "choice(1,2)",
    "range(3)",
    "\udcff",
]


@pytest.mark.parametrize("text", NASTY)
def test_paths_and_text_arrive_as_typed(text: str) -> None:
    run = configs.compose_train("gan", [f"run.dir={text}", f"run.name={text}", f"model.init_from={text}"])
    assert (run.run.dir, run.run.name, run.model.init_from) == (text, text, text)


@pytest.mark.parametrize("typed", ["2019,病历号,size (cm)", '"a, b", x', "'a, b',备注", "true,null,-1", "a,b", ""])
def test_names_in_a_list_need_no_quotes(typed: str) -> None:
    names = [name.strip() for name in next(csv.reader([typed.replace("'", '"')], skipinitialspace=True), [])]
    for found in (
        configs.compose_train("vae", [f"data.drop=[{typed}]"]).data,
        configs.compose_data("x.csv", [f"data.drop=[{typed}]"]),
    ):
        assert list(found.drop or ()) == names
    asked = shlex.split(to_list("data.drop", names))
    assert list(configs.compose_data("x.csv", asked).drop or ()) == names


def test_a_path_that_exists_is_taken_literally(tmp_path: Path) -> None:
    for name in ("a${seed}", "null", "'a'", "~"):
        (tmp_path / name).mkdir()
        assert configs.compose_train("gan", [f"run.dir={name}"]).run.dir == name
    assert configs.compose_train("gan", ["run.dir=b${seed}"]).run.dir == "b0"  # control: no such path
    assert configs.compose_train("gan", ["run.dir=null2"]).run.dir == "null2"
    assert configs.compose_train("gan", ["run.name=null"]).run.name is None
    assert configs.compose_train("gan", ["run.dir='c d'"]).run.dir == "c d"
    assert configs.compose_train("gan", ["run.dir=~/x"]).run.dir == str(Path.home() / "x")


# -- reading back, and changing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [[], ["data=ring8"], *([f"optim={name}"] for name in ("adam", "adamw", "sgd", "lbfgs", "adam_no_momentum"))],
)
def test_a_config_survives_json(overrides: list[str]) -> None:
    run = configs.compose_train("gan", overrides)
    assert configs.read_config(json.loads(json.dumps(plain(run)))) == run


def test_every_shipped_component_composes() -> None:
    search = SearchPath()
    nets = configs.compose_train("gan", []).model.nets
    for group in ("data", "net", "optim", "trainer", "sampling"):
        for name, file in search.options(group).items():
            if file.is_relative_to(search.folders[0]) and name != "path":
                foreign = group == "data" and registry.find("data", name).modality not in nets
                configs.compose_train("gan", [f"{group}={name}", *["net=mlp"] * foreign])


def test_a_damaged_config_is_a_damaged_checkpoint() -> None:
    values = plain(configs.compose_train("gan", []))
    for damaged in ({**values, "extra": 1}, {**values, "seed": "x"}, {**values, "model": {"name": "no"}}, [], None):
        with pytest.raises(CheckpointError) as caught:
            configs.read_config(damaged, path="RUN/config.json")
        assert "RUN/config.json" in str(caught.value)


def test_changes_on_resume_are_classed() -> None:
    run = configs.compose_train("gan", ["data=ring8"])
    typed = ["trainer.max_steps=9", "trainer.keep=5", "optim.lr=0.1", "threads=2", "trainer.log_every=10"]
    changed, changes = configs.change_config(run, typed)
    assert {(c.key, c.kind) for c in changes} == {
        ("trainer.max_steps", "schedule"),
        ("trainer.max_minutes", "schedule"),  # the typed budget takes the place of the default one
        ("optim.lr", "schedule"),
        ("trainer.keep", "harmless"),
        ("threads", "harmless"),
    }  # log_every was 10 already
    assert changed == replace(
        run,
        trainer=replace(run.trainer, max_steps=9, max_minutes=None, keep=5),
        optim=replace(run.optim, lr=0.1),
        threads=2,
    )
    assert configs.change_config(run, []) == (run, [])


def test_impossible_changes_and_typos_are_told_together() -> None:
    run = configs.compose_train("gan", ["data=ring8"])
    for typed in [
        "model.latent_dim=3",
        "seed=4",
        "data=digits",
        "optim=sgd",
        "net.width=3",
        "run.dir=x",
        "optim.name=sgd",
    ]:
        with pytest.raises(ConfigErrors):
            configs.change_config(run, [typed])
    with pytest.raises(ConfigErrors) as caught:
        configs.change_config(run, ["model.latent_dim=3", "model.loss=hinge"])
    assert len(caught.value.lines()) == 2
    with pytest.raises(ConfigErrors) as caught:
        configs.change_config(run, ["trainer.kep=3", "optim.lr=x", "run.name=${oc.env:HOME}"])
    assert len(caught.value.lines()) == 3
    with pytest.raises(ConfigErrors):
        configs.differences(run, replace(run, seed=9))


def test_settings_of_verbs_are_checked() -> None:
    sample = configs.compose_verb("sample", ["device=cpu", "sampling.batch_size=8"])
    assert (sample.device, sample.sampling, sample.data) == ("cpu", {"batch_size": 8}, None)
    run = configs.compose_train("gan", ["data.size=16", "data.split_seed=3", "sampling.truncation=0.5"])
    assert configs.compose_verb("eval", []).with_data(run) == (run, False)
    other, another = configs.compose_verb("eval", ["data=digits"]).with_data(run)
    assert (other.data.name, other.data.size, other.data.split_seed, another) == ("digits", 16, 3, True)
    assert configs.compose_verb("eval", ["data=fashion_mnist"]).with_data(run) == (run, False)
    own, another = configs.compose_verb("eval", ["data.path=a, b"]).with_data(run)
    assert (own.data.path, another) == ("a, b", True)
    sampling = sample.sampling_of(run)  # on top of the run's own
    assert (sampling.batch_size, sampling.truncation) == (8, 0.5)
    for verb, typed in (
        ("sample", "data=digits"),
        ("sample", "sampling.x=1"),
        ("eval", "data.split_seed=5"),  # would show the model samples that it learned from
        ("eval", "data.valid_fraction=0.9"),
        ("eval", "optim.lr=1"),
        ("eval", "data=no"),
    ):
        with pytest.raises(ConfigErrors):
            configs.compose_verb(verb, [typed])


def test_settings_of_data_are_checked() -> None:
    assert configs.compose_data("digits", ["data.size=16"]).size == 16
    at_path = configs.compose_data("some, where", [])
    assert (at_path.name, at_path.path) == ("path", "some, where")
    for typed in ("data.sise=3", "seed=3", "data.size=x"):
        with pytest.raises(ConfigErrors):
            configs.compose_data("digits", [typed])


# -- sweeps ------------------------------------------------------------------------------------------------------------


def test_a_sweep_runs_every_combination(tmp_path: Path) -> None:
    typed = ["optim.lr=1e-3,1e-4", "data=digits,ring8", "seed=range(2)", "run.name=s${seed}"]
    outcomes = configs.run_hydra("gan", typed, [], lambda run: run, multirun=True)
    seen = {(o.value.optim.lr, o.value.data.name, o.value.net.name, o.value.run.name) for o in outcomes if o.value}
    assert len(outcomes) == 8
    assert seen == {
        (lr, *d, f"s{s}") for lr in (1e-3, 1e-4) for d in (("digits", "conv"), ("ring8", "mlp")) for s in (0, 1)
    }
    assert set(outcomes[0].overrides) == {"data=digits", "optim.lr=0.001", "seed=0", "run.name=s${seed}"}
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]  # nothing of Hydra's beside it


def test_a_preset_works_with_data_of_another_kind() -> None:
    points = configs.compose_train("gan", ["experiment=gan/digits", "data=ring8"])
    assert (points.net.name, points.trainer.max_samples) == ("mlp", 100_000)
    with pytest.raises(ConfigErrors, match=r"net\.patch"):  # what was typed is not dropped
        configs.compose_train("gan", ["experiment=gan/digits", "data=ring8", "net.patch=1"])


@pytest.mark.parametrize(
    "text",
    [
        "hydra: {callbacks: {x: {_target_: pathlib.Path.write_text}}}",
        "hydra: {launcher: {_target_: os.system}}",
        "hydra: {job_logging: {handlers: {x: {class: subprocess.Popen}}}}",
    ],
)
def test_a_yaml_that_makes_hydra_call_something_is_refused(text: str, tmp_path: Path) -> None:
    preset = tmp_path / "genai_configs/experiment/gan/evil.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(f"# @package _global_\n{text}\n")
    for multirun in (False, True):
        with pytest.raises(SecurityError):
            configs.run_hydra("gan", ["experiment=gan/evil"], [tmp_path / "genai_configs"], lambda run: run, multirun)


def test_a_sweep_takes_what_hydras_grammar_has() -> None:
    outcomes = configs.run_hydra(
        "gan", ["data=glob([dig*,mo*])", "seed=range(1,3)"], [], lambda run: run, multirun=True
    )
    assert [(o.value.data.name, o.value.seed) for o in outcomes if o.value] == [
        (name, seed) for name in ("digits", "moons") for seed in (1, 2)
    ]
    with pytest.raises(ConfigErrors, match="INTERVAL_SWEEP"):  # of sweepers that choose
        configs.run_hydra("gan", ["optim.lr=interval(0,1)"], [], lambda run: run, multirun=True)
    with pytest.raises(ConfigErrors, match="matches none"):
        configs.run_hydra("gan", ["data=glob(x*)"], [], lambda run: run, multirun=True)


def test_a_sweep_is_checked_as_a_whole_before_its_first_job() -> None:
    ran: list[Config] = []
    with pytest.raises(ConfigErrors) as caught:
        configs.run_hydra(
            "gan", ["seed=1,-2", "optim.lr=0.1,x", "trainer.max_step=1", "data=digits,no"], [], ran.append, True
        )
    assert len(caught.value.lines()) == 4
    assert not ran


def test_a_failing_job_does_not_stop_the_sweep() -> None:
    def task(run: Config) -> int:
        if run.seed == 1:
            raise DataError("bad")
        return run.seed

    outcomes = configs.run_hydra("gan", ["seed=0,1,2"], [], task, multirun=True)
    assert [outcome.value for outcome in outcomes] == [0, None, 2]
    assert isinstance(outcomes[1].error, DataError)


def test_a_signal_stops_the_sweep() -> None:
    def task(run: Config) -> int:
        if run.seed == 1:
            raise Interrupted("stopped", signal=signal.SIGINT)
        return run.seed

    outcomes = configs.run_hydra("gan", ["seed=0,1,2"], [], task, multirun=True)
    assert len(outcomes) == 2
    assert outcomes[1].error is not None
    assert outcomes[1].error.exit_code == 130  # type: ignore[attr-defined]


def test_a_single_run_goes_through_hydra_and_raises_its_own_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert configs.run_hydra("gan", ["seed=3"], [], lambda run: run.seed, False)[0].value == 3
    with pytest.raises(ZeroDivisionError):
        configs.run_hydra("gan", [], [], lambda run: 1 // run.seed, False)
    assert capfd.readouterr().err == ""
    assert not list(Path().iterdir())


def test_an_unknown_launcher_is_a_mistake() -> None:
    with pytest.raises(ConfigErrors):
        configs.run_hydra("gan", ["seed=1,2", "hydra/launcher=nothing"], [], lambda run: None, True)


def test_a_sweep_over_a_path_that_exists_is_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "a,b" / "0.png")
    outcomes = configs.run_hydra("gan", ["data.path=a,b", "seed=1,2"], [], lambda run: run.data.path, True)
    assert [outcome.value for outcome in outcomes] == ["a,b", "a,b"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_where_names_the_file_that_wins(tmp_path: Path) -> None:
    mine = write(tmp_path, "more/optim/mine.yaml", "name: sgd\nlr: 1.0\n")
    write(tmp_path, "more/optim/adam.yaml", "name: sgd\nlr: 1.0\n")
    dirs = [tmp_path / "more"]
    assert where("optim=mine", dirs) == mine
    assert where("optim=adam", dirs) != tmp_path / "more/optim/adam.yaml"
    assert configs.compose_train("gan", ["optim=adam"], dirs).optim.name == "adam"
    assert configs.compose_train("gan", ["optim=mine"], dirs).optim.name == "sgd"
    assert [file.name for file, _ in SearchPath.of(dirs).shadowed()] == ["adam.yaml"]
    assert where("train").name == "train.yaml"
    for wrong in ("optim=no", "no=adam", "no"):
        with pytest.raises(ConfigError):
            where(wrong, dirs)


def test_a_folder_of_configs_may_have_any_name(tmp_path: Path) -> None:
    for name in ("数 据", "a,b (c)", "it's", "x=y#~", "a${seed}"):
        write(tmp_path, f"{name}/optim/mine.yaml", "name: sgd\nlr: 1.0\n")
        assert configs.compose_train("gan", ["optim=mine"], [tmp_path / name]).optim.name == "sgd"


def test_every_key_of_the_yaml_is_in_the_json_schema() -> None:
    schema = json_schema()
    json.dumps(schema)

    def check(values: object, node: dict) -> None:
        if isinstance(values, dict) and "properties" in node:
            for key, value in values.items():
                assert key in node["properties"], key
                check(value, node["properties"][key])

    values = plain(configs.compose_train("gan", []))
    for key, value in values.items():
        node = schema["properties"][key]
        chosen = [n for n in node.get("anyOf", []) if isinstance(value, dict) and n.get("title") == value.get("name")]
        check(value, chosen[0] if chosen else node)


def test_completion_knows_groups_keys_and_values() -> None:
    assert complete("gan", "data=dig") == ["data=digits"]
    assert "optim.lr=" in complete("gan", "optim.l")
    assert "model.latent_dim=" in complete("gan", "model.la")
    assert "model.latent_dim=" not in complete("", "model.la")
    assert complete("gan", "dtype=b") == ["dtype=bf16"]
    assert complete("gan", "model.conditional=t") == ["model.conditional=true"]


def test_completion_copes_with_words_that_bash_cut_at_equals() -> None:
    cut = SimpleNamespace(params={"model": "gan", "overrides": ["seed=1", "data", "="]})
    assert complete_setting(cut, "dig") == ["digits"]  # type: ignore[arg-type]
    cut = SimpleNamespace(params={"model": "gan", "overrides": ["data"]})
    assert "digits" in complete_setting(cut, "=")  # type: ignore[arg-type]


def test_a_size_is_one_number_or_height_and_width() -> None:
    for typed, size in (("16", 16), ("[16,24]", (16, 24)), ("[16, 24]", (16, 24)), ("null", None)):
        config = configs.compose_train("gan", ["data=digits", f"data.size={typed}", "data.fit=pad"])
        assert (config.data.size, config.data.fit) == (size, "pad")
        read_back = configs.read_config(json.loads(json.dumps(plain(config))))  # as a run keeps it
        assert read_back == config
        assert configs.differences(config, read_back) == []
        written = yaml.safe_load(configs.to_yaml(config))["data"]["size"]
        assert written == (list(size) if isinstance(size, tuple) else size)
        assert configs.compose_data("digits", [f"data.size={typed}"]).size == size
    jobs = configs.run_hydra("gan", ["data=digits", "data.size=[16,24],8"], [], lambda c: c.data.size, multirun=True)
    assert [job.value for job in jobs] == [(16, 24), 8]
    for typed in ("[16]", "[16,24,3]", "[16,3]", "[16,x]", "3", "16x24"):
        with pytest.raises(ConfigErrors, match=r"'data\.size' is .*, expected a"):
            configs.compose_train("gan", ["data=digits", f"data.size={typed}"])
    with pytest.raises(ConfigErrors, match="crop, pad, stretch"):
        configs.compose_train("gan", ["data=digits", "data.fit=fill"])


def test_another_set_is_fitted_as_the_model_learned() -> None:
    config = configs.compose_train("gan", ["data=digits", "data.size=[16,24]", "data.fit=pad"])
    another = configs.compose_verb("eval", ["data=fashion_mnist"]).with_data(config)[0].data
    assert (another.name, another.size, another.fit) == ("fashion_mnist", (16, 24), "pad")


def test_a_model_without_nets_is_a_mistake_that_is_told() -> None:
    with pytest.raises(ConfigError, match=r"'diffusion' names no nets \(model\.nets\) - add net=NAME"):
        configs.compose_train("diffusion", ["model.nets=null"])
