"""A sweep's file: defaults, numbers, overrides, and one sentence for every mistake."""

from __future__ import annotations

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.sweep import executor
from adapad_ray.sweep.folder import sweep_location
from adapad_ray.sweep.spec_file import load_spec, parse_spec

GOOD = {
    "name": "s",
    "model": "m",
    "task": "rotten-tomatoes",
    "methods": {"lora": {}, "adapad/exact": {"local_steps": 2}},
    "budgets": ["40k"],
}


def test_a_file_with_the_four_needed_fields_has_defaults_for_the_rest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: m\ntask: rotten-tomatoes\nmethods: {lora: }\nbudgets: [40k]\n")
    spec = load_spec(path)
    assert spec.name == "mine"
    assert spec.seeds == [0, 1, 2]
    assert spec.labels() == ["head_only", "lora"]
    assert spec.method_settings("lora")["lora_alpha"] == 2.0


def test_numbers_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: m\ntask: t/t\nmethods: {lora: {}}\nbudgets: [1]\ntraining: {learning_rate: 2e-3}\n"
        "tune: {budget: 1, space: {learning_rate: {log: [1e-4, 1e-2]}}}\n"
    )
    spec = load_spec(path)
    assert spec.training.learning_rate == 0.002
    assert spec.tune is not None
    assert spec.tune.space["learning_rate"]["log"] == [1e-4, 1e-2]


def test_overrides_win_and_reach_into_mappings(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("model: m\ntask: t/t\nmethods: {lora: {}}\nbudgets: [1]\n")
    spec = load_spec(path, ["training.epochs=2", "seeds=[7, 8]", "methods.lora.rank=3"])
    assert (spec.training.epochs, spec.seeds, spec.method_settings("lora")["rank"]) == (2.0, [7, 8], 3)


@pytest.mark.parametrize(
    ("gpus", "resources", "requested"),
    [(0, "auto", 0), (3, "auto", 1), (3, {"gpus_per_worker": "auto"}, 1), (3, {"gpus_per_worker": 0.25}, 0.25)],
)
def test_auto_requests_a_gpu_where_there_is_one(gpus, resources, requested, monkeypatch):
    monkeypatch.setattr("adapad_ray.distributed.visible_gpus", lambda: gpus)
    spec = parse_spec({**GOOD, "resources": resources})
    assert spec.resources.gpus_per_worker == requested
    assert spec.model_dump()["resources"]["gpus_per_worker"] == requested


@pytest.mark.parametrize(
    ("gpus", "resources", "said"),
    [
        (0, {}, None),
        (2, {}, "2 GPUs are visible, but the file requests none: cells train on CPUs. To use GPUs, add "),
        (1, {"workers": 2}, "1 GPU is visible"),
        (2, {"gpus_per_worker": 0}, None),
        (2, "auto", None),
    ],
)
def test_a_file_that_says_nothing_about_gpus_leaves_visible_ones_idle_not_without_a_word(
    gpus, resources, said, monkeypatch
):
    monkeypatch.setattr("adapad_ray.distributed.visible_gpus", lambda: gpus)
    monkeypatch.setattr(executor, "visible_gpus", lambda: gpus)
    sentence = executor.unused_gpus(parse_spec({**GOOD, "resources": resources}))
    assert sentence is None if said is None else said in sentence


def test_a_label_has_its_own_modules_and_training():
    spec = parse_spec(
        {**GOOD, "methods": {"lora/qv": {"target_modules": ["query"], "training": {"epochs": 9}}, "lora": {}}}
    )
    assert spec.modules_of("lora/qv") == ["query"]
    assert spec.modules_of("lora") == "all-linear"
    assert spec.training_settings("lora/qv").epochs == 9
    assert spec.training_settings("lora").epochs == spec.training.epochs


def test_a_tuned_point_reaches_training_and_method():
    spec = parse_spec(GOOD)
    point = {"learning_rate": 0.5, "growth_threshold": 2.0}
    assert spec.training_settings("lora", point).learning_rate == 0.5
    assert spec.method_settings("adapad/exact", point)["growth_threshold"] == 2.0
    assert "growth_threshold" not in spec.method_settings("lora", point)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modle": "m"}, ["modle", "did you mean model"]),
        ({"methods": {"lroa": {}}}, ["'lroa'", "did you mean lora"]),
        ({"methods": {"adapad": {"growth_treshold": 1}}}, ["growth_treshold", "did you mean growth_threshold"]),
        ({"methods": {"lora": {"training": {"epoch": 1}}}}, ["epoch", "did you mean epochs"]),
        ({"methods": {"lora/": {}}}, ["'lora/'"]),
        ({"methods": {}}, ["methods"]),
        ({"budgets": []}, ["budgets"]),
        ({"seeds": [1, 1]}, ["seeds", "differ"]),
        ({"attn_implementation": "flash"}, ["attn_implementation", "flash_attention_2"]),
        ({"attn_implementation": "flash_attention_2"}, ["for half precision, but dtype is float32", "bfloat16"]),
        ({"attn_implementation": "flex_attention"}, ["trains on GPUs, but resources.gpus_per_worker is 0"]),
        ({"training": {"epochs": -1}}, ["training.epochs", "-1", "greater than 0"]),
        ({"training": {"learning_rate": "fast"}}, ["training.learning_rate", "'fast'"]),
        ({"tune": {"budget": 1, "space": {"learning_rate": {"logs": [1, 2]}}}}, ["logs", "log"]),
        ({"tune": {"budget": 1, "space": {"learning_rat": {"log": [1, 2]}}}}, ["learning_rat"]),
        ({"resources": {"worker": 2}}, ["resources.worker", "did you mean workers"]),
        ({"methods": {"adapad": {"initial_rank": 0, "advance_learning": False}}}, ["initial_rank 0"]),
        ({"methods": {"lora": {"training": 5}}}, ["methods.lora.training", "5"]),
        ({"methods": {"lora": {"budgets": {"a": 1}}}}, ["methods.lora.budgets", "list"]),
        ({"methods": {"lora": {"budgets": 41_000}}}, ["methods.lora.budgets", "41000", "40k"]),
        ({"methods": {"lora": {"budgets": [7]}}}, ["methods.lora.budgets", "7", "40k"]),
        ({"methods": {"lora": {"compute_as": []}}}, ["methods.lora.compute_as"]),
        ({"methods": {"lora": {"compute_as": "nobody"}}}, ["compute_as", "'nobody'"]),
        ({"methods": {"lora": {}, "full": {"compute_as": "lora"}}}, ["methods.full.compute_as", "budgets"]),
        ({"methods": {"lora": {"training": {"max_length": 7}}}}, ["methods.lora.training.max_length"]),
        ({"tune": {"budget": 1, "space": {"rank": {"int": [1, 4]}}}}, ["tune.space.rank"]),
        ({"tune": {"budget": 1, "space": {"max_length": {"choice": [8]}}}}, ["tune.space.max_length"]),
        ({"resources": {"workers": 0}}, ["resources.workers is 0"]),
        ({"resources": {"gpus_per_worker": 2}}, ["resources.gpus_per_worker", "1 of 2 would be idle"]),
        ({"name": "../up"}, ["name", "'../up'"]),
        ({"task": {"train": "a.csv", "texts": "t"}}, ["texts"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_gets_one_sentence(change, words):
    with pytest.raises(BadRequestError) as caught:
        parse_spec({**GOOD, **change})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_field_is_named():
    with pytest.raises(BadRequestError, match="model is missing"):
        parse_spec({key: value for key, value in GOOD.items() if key != "model"})


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "!!python/object/apply:os.system ['true']\n"])
def test_a_file_that_is_not_a_mapping_is_rejected(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(BadRequestError, match="sweep file"):
        load_spec(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadRequestError, match=r"none\.yaml cannot be read"):
        load_spec(tmp_path / "none.yaml")


MINIMAL = "model: m\ntask: {train: t.csv}\nmethods: {lora: {}}\nbudgets: [1000]\n"


@pytest.fixture
def load(tmp_path):
    """Loads a file with this content and these overrides."""

    def load(text: str | bytes = MINIMAL, *overrides: str):
        path = tmp_path / "s.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_spec(path, overrides)

    return load


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("methods=[lora, adapad]", "methods", {"lora": {}, "adapad": {}}),
        ("methods=lora", "methods", {"lora": {}}),
        ("methods=[lora, adapad: {initial_rank: 0}]", "methods", {"lora": {}, "adapad": {"initial_rank": 0}}),
        ("methods={lora: {budgets: 1k}}", "methods", {"lora": {"budgets": ["1k"]}}),
        ("budgets=10k", "budgets", ["10k"]),
        ("budgets=10000", "budgets", [10000]),
        ("seeds=0", "seeds", [0]),
        ("seeds=[010]", "seeds", [10]),
        ("training=", "training", {}),
        ("training={batch_size: 016, group_by_length: no}", "training", {"batch_size": 16, "group_by_length": False}),
        ("training={batch_size: 10_0, epochs: 2, learning_rate: 1e-3}", "training",
         {"batch_size": 100, "epochs": 2.0, "learning_rate": 1e-3}),
        ("training.batch_size=8.0", "training", {"batch_size": 8}),
        ("task.label=2024", "task", {"train": "t.csv", "label": "2024"}),
        ("task.label=007", "task", {"train": "t.csv", "label": "007"}),
        ("task.label=no", "task", {"train": "t.csv", "label": "no"}),
        ("name=2026-01-01", "name", "2026-01-01"),
    ],
)  # fmt: skip
def test_what_can_only_mean_one_thing_is_taken(load, override, field, value):
    spec = load(MINIMAL, override).model_dump(exclude_defaults=True)
    if field == "training":
        assert {name: spec.get(field, {}).get(name, value[name]) for name in value} == value
    else:
        assert spec[field] == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=5", "epochs is unknown: did you mean training.epochs?"),
        ("lr=1e-3", "did you mean training.learning_rate?"),
        ("r=8", "did you mean methods.lora.rank?"),
        ("seed=1", "did you mean seeds?"),
        ("budget=1k", "did you mean budgets?"),
        ("workers=2", "did you mean resources.workers?"),
        ("train=a.csv", "did you mean task.train?"),
        ("training.rank=8", "training.rank is unknown: did you mean methods.lora.rank?"),
        ("training.seed=8", "did you mean seeds?"),
        ("methods.lora.r=8", "methods.lora.r is unknown: did you mean rank?"),
        ("methods.lora.epochs=8", "did you mean methods.lora.training.epochs?"),
        ("methods.lora.max_length=8", "did you mean training.max_length?"),
        ("methods.lora.training.rank=8", "did you mean methods.lora.rank?"),
        ("tune={budget: 1k, space: {lr: {log: [1e-4, 1e-2]}}}", "tune.space.lr .* did you mean learning_rate?"),
        ("dtype=bf16", "dtype is 'bf16': .* did you mean bfloat16?"),
        ("seeds=3", r"seeds is 3: write \[3\] for the seed 3, or \[0, 1, 2\] for 3 of them"),
        ("seeds=0,1", r"seeds is '0,1': write a list, as in \[0, 1, 2\]"),
        ("seeds=[true]", "seeds.0 is True: input should be a number, not true"),
        ("training.epochs=true", "training.epochs is True: input should be a number"),
        ("training.batch_size=1:30", "training.batch_size is '1:30'"),
        ("training.epochs=nan", "training.epochs is 'nan'"),
        ("training.epochs=.nan", "training.epochs is nan"),
        ("budgets=[true]", "budgets.0 is True"),
        ("budgets=[10k, 10000]", "budgets has '10k' and 10000, which are the same: remove one"),
        ("budgets=[1000.5]", "'1000.5' is not a whole number of parameters: write 1,000"),
        ("budgets=['0,5%']", "budget '0,5%' is not understood"),
        ("methods=[lora, lora]", "methods has lora twice"),
        ("methods=[lora, 3]", "methods is"),
        ("task.label=true", "task.label is True: .*; write it in quotes"),
        ("task.label=1.10", "task.label is 1.1: .*; write it in quotes"),
        ("model=", "model is missing: every sweep needs model"),
        ("tune.budget=abc", "tune"),
    ],
)
def test_a_slip_on_the_command_line_is_answered_with_what_was_meant(load, override, message):
    with pytest.raises(BadRequestError, match=message):
        load(MINIMAL, override)


def test_overrides_reach_into_empty_entries_lists_and_labels_with_dots(load):
    text = MINIMAL.replace("{lora: {}}", "[lora, adapad, lora/v1.5: {rank: 2}]")
    spec = load(text, "methods.lora.rank=3", "methods.lora/v1.5.rank=4", "training.epochs=2")
    ranks = {label: spec.method_settings(label).get("rank") for label in spec.methods}
    assert ranks == {"lora": 3, "adapad": None, "lora/v1.5": 4}
    assert load(MINIMAL.replace("{}", ""), "methods.lora.rank=3").method_settings("lora")["rank"] == 3


def test_null_removes_a_method_instead_of_emptying_its_settings(load):
    text = MINIMAL.replace("{lora: {}}", "{lora: {}, lora/qv: {target_modules: [query]}, lora/v1.5: {rank: 2}}")
    assert list(load(text, "methods.lora/qv=null", "methods.lora/v1.5=null").methods) == ["lora"]
    with pytest.raises(BadRequestError, match=r"methods.dora=null removes .* it has lora\. methods.dora=\{\} adds it"):
        load(MINIMAL, "methods.dora=null")


def test_an_override_of_one_entry_leaves_its_alias_alone(load):
    text = MINIMAL.replace("{lora: {}}", "{lora/a: &a {rank: 2}, lora/b: *a}")
    spec = load(text, "methods.lora/a.rank=3")
    assert [spec.method_settings(label)["rank"] for label in spec.methods] == [3, 2]


def test_a_section_does_not_silently_undo_an_override_of_one_of_its_fields(load):
    with pytest.raises(BadRequestError, match=r"'training={batch_size: 4}' undoes 'training.epochs=3': put it first"):
        load(MINIMAL, "training.epochs=3", "training={batch_size: 4}")
    training = load(MINIMAL, "training={batch_size: 4}", "training.epochs=3").training
    assert (training.batch_size, training.epochs) == (4, 3)


def test_the_end_of_a_value_is_not_lost_as_a_comment(load):
    with pytest.raises(BadRequestError, match=r"'task.train=a #1.csv' has a comment"):
        load(MINIMAL, "task.train=a #1.csv")
    for written in ("'a #1.csv'", '"a #1.csv"'):
        assert load(MINIMAL, f"task.train={written}").task.train == "a #1.csv"
    assert load(MINIMAL, "task.train=a#1.csv").task.train == "a#1.csv"


def test_the_beginning_of_a_value_is_not_lost_as_an_anchor(load):
    with pytest.raises(BadRequestError, match=r"'task.train=&a b.csv' begins with an anchor"):
        load(MINIMAL, "task.train=&a b.csv")
    assert load(MINIMAL, "task.train='&a b.csv'").task.train == "&a b.csv"


def test_a_folder_may_lie_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert sweep_location({"storage": "~/runs", "name": "a"}) == "/home/me/runs/a"
    assert sweep_location({}, "~/out") == "/home/me/out"


def test_of_two_overrides_of_one_field_the_later_counts(load):
    """As for options of other commands: `adapad submit` adds the places of uploaded files to the user's overrides."""
    assert load(MINIMAL, "seeds=[0]", "seeds=[1]").seeds == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: every sweep needs model, task, methods and budgets"),
        ("# nothing\n", "is empty"),
        (MINIMAL + "seeds: [0]\nseeds: [1]\n", r"has the key seeds twice \(lines 5 and 6\)"),
        (MINIMAL.replace("{lora: {}}", "{lora: {rank: 1}, lora: {rank: 2}}"), r"the key methods.lora twice \(line 3\)"),
        (MINIMAL.encode() + b"name: caf\xe9\n", "is not UTF-8 .byte 0xe9 on line 5.: save it as UTF-8"),
        (MINIMAL.encode("utf-16"), "is not UTF-8 .byte 0xff on line 1."),
    ],
)
def test_a_file_that_cannot_mean_what_it_says_is_rejected(load, text, message):
    with pytest.raises(BadRequestError, match=message):
        load(text)


def test_a_byte_order_mark_and_merged_keys_are_read(load):
    text = "\ufeff" + MINIMAL.replace("{lora: {}}", "\n  lora/a: &a {rank: 2}\n  lora/b: {<<: *a, lora_alpha: 4}")
    spec = load(text)
    assert [spec.method_settings(label)["rank"] for label in spec.methods] == [2, 2]


TUNE = "tune={budget: 1k, space: {learning_rate: {log: [1e-4, 1e-2]}, %s}}"
SEARCH = "search={space: {budget: {log: [1k, 9k]}, %s}}"


@pytest.mark.parametrize(
    ("stage", "space", "message"),
    [
        (TUNE, "batch_size: {choice: [8, high]}", "tune.space.batch_size is 'high'"),
        (TUNE, "batch_size: {uniform: [8, 32]}", "tune.space.batch_size is 17.17: .* integer"),
        (TUNE, "batch_size: {choice: [8, true]}", "tune.space.batch_size is True"),
        (TUNE, "weight_decay: {uniform: [-1, 1]}", "tune.space.weight_decay is -1.0: .* greater than or equal to 0"),
        (TUNE, "dropout: {uniform: [0, 1]}", "tune.space.dropout is 1.0: .* less than 1"),
        (TUNE, "optimizer: {choice: [adamw, adam]}", "tune.space.optimizer is 'adam'"),
        (TUNE, "weight_decay: {choice: [0, .nan]}", "tune.space.weight_decay is nan"),
        (TUNE, "weight_decay: {choice: [0.1, 0.1]}", "tune.space.weight_decay.choice has 0.1 twice"),
        (TUNE, "weight_decay: 0.1", "tune.space.weight_decay must have exactly one of log, uniform, int, choice"),
        (TUNE, "pad_to_multiple_of: {int: [1, 64]}", "tune.space.pad_to_multiple_of 3 cannot be trained"),
        (TUNE, "growth_start: {uniform: [0, 0.7]}, growth_end: {choice: [0.6]}",
         "tune.space.growth_end 0.6 and tune.space.growth_start 0.7 cannot be trained by adapad"),
        (TUNE, "growth_start: {uniform: [0.1, 0.5]}, growth_end: {uniform: [0.3, 0.9]}",
         "tune.space.growth_end 0.3 and tune.space.growth_start 0.5 cannot be trained by adapad"),
        (SEARCH, "learning_rate: {choice: [high, low]}", "search.space.learning_rate is 'high'"),
        (SEARCH, "rank: {int: [0, 4]}", "search.space.rank is 0"),
    ],
)  # fmt: skip
def test_a_space_is_checked_over_its_whole_range(load, stage, space, message):
    mode = ["mode=search"] if stage == SEARCH else []
    with pytest.raises(BadRequestError, match=message):
        load(MINIMAL, "methods=[lora, adapad]", *mode, stage % space)


@pytest.mark.parametrize(
    ("stage", "space", "message"),
    [
        (TUNE % "", "{learning_rat: {choice: [1e-4]}}", r"\.learning_rat is no setting of full: did you mean learning"),
        (TUNE % "", "{learning_rate: {choice: [1e-4, -1]}}", r"\.learning_rate is -1: .* greater than 0 \(for full"),
        (TUNE % "", "{learning_rate: {choices: [1e-4]}}", r"\.learning_rate.choices is not .* did you mean choice"),
        (TUNE % "", "{max_length: {choice: [8]}}", r"\.max_length would change the data"),
        (TUNE % "", "{}", " has no setting of full: add learning_rate"),
        (SEARCH % "", "{budget: {log: [1k, 2k]}}", r"\.budget cannot differ between methods: set search.space.budget"),
        ("seeds=[0]", "{learning_rate: {choice: [1e-4]}}", " is given, but nothing is tuned or searched: add tune"),
    ],
)  # fmt: skip
def test_a_space_of_one_label_is_checked_under_its_own_name(load, stage, space, message):
    mode = ["mode=search"] if stage.startswith("search") else []
    with pytest.raises(BadRequestError, match=f"^methods.full.space{message}"):
        load(MINIMAL, f"methods={{lora: {{}}, full: {{space: {space}}}}}", *mode, stage)


def test_a_setting_that_no_label_takes_from_the_shared_space_is_named(load):
    methods = "methods={lora: {}, adapad: {space: {learning_rate: {choice: [1e-3, 3e-3]}}}}"
    with pytest.raises(BadRequestError, match=r"^tune.space.growth_threshold is a setting of no method here"):
        load(MINIMAL, methods, TUNE % "growth_threshold: {uniform: [0.5, 2]}")
    with pytest.raises(BadRequestError, match=r"^search.space.growth_threshold is a setting of no method searched"):
        load(MINIMAL, methods, "mode=search", SEARCH % "growth_threshold: {uniform: [0.5, 2]}")


def test_a_label_is_tuned_over_its_own_space(load):
    methods = "methods={lora: {}, full: {space: {learning_rate: {choice: [1e-5, 3e-5]}}}}"
    spec = load(MINIMAL, methods, TUNE % "weight_decay: {choice: [0, 0.1]}")
    assert spec.tune_space("full") == {"learning_rate": {"choice": [1e-5, 3e-5]}}
    assert spec.tune_space("lora") == spec.tune_space("head_only") == spec.tune.space
    assert (spec.tune_trials("full"), spec.tune_trials("lora")) == (2, 6)


@pytest.mark.parametrize(
    ("stage", "space"),
    [
        (TUNE, "growth_start: {uniform: [0, 0.3]}, growth_end: {uniform: [0.3, 0.9]}"),
        (TUNE, "growth_interval: {choice: [null, 5]}, batch_size: {int: [8, 64]}"),
        (TUNE, "group_by_length: {choice: [true, false]}"),
        (SEARCH, "initial_rank: {choice: [0, 1]}, advance_learning: {choice: [true, false]}"),
    ],
)  # fmt: skip
def test_a_space_that_is_right_everywhere_is_taken(load, stage, space):
    """A search passes over combinations that cannot exist, so only single values are checked there."""
    mode = ["mode=search"] if stage == SEARCH else []
    assert load(MINIMAL, "methods=[lora, adapad]", *mode, stage % space)
