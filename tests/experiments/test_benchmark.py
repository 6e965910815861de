"""The benchmark: turns and their statistics, the count of FLOPs, PyTorch's side against ours, and the command."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import table
from experiments.benchmark.contest import Contender, Entry, Lane, Measured, ask, calls_in, contest, turns
from experiments.benchmark.entrants import Variant, check_contenders, jax_contender, parse_variant, usual_contenders
from experiments.benchmark.workload import STAGES, Workload, usual_images
from simsiam_jax.errors import InputError
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.settings.schema import ViewSpec
from tests.support.launchers import ROOT, launch, refused
from tests.support.torchvision_import import import_torchvision

# Contenders, run in processes of their own under these names.


def writer(name: str, path: str) -> Entry:
    """Writes its name at every turn."""

    def run(calls: int) -> None:
        with Path(path).open("a") as file:
            file.write(f"{name}{calls} ")

    return Entry({"": Lane(run, samples=2, compiles=False)}, lambda: {"peak_bytes": 7})


def refuses() -> Entry:
    raise ValueError("no such device\nand pages more")


def mistaken() -> Entry:
    raise InputError("--image_size=1 is too small")


def dies() -> Entry:
    def run(calls: int) -> None:
        os._exit(3)

    return Entry({"": Lane(run, samples=1)}, dict)


def reads(name: str) -> str | None:
    return os.environ.get(name)


def contender(name, function, *arguments, **more):
    return Contender(name, f"{__name__}:{function}", arguments, **more)


def test_every_other_round_goes_the_other_way_about():
    assert [turns("abc", number) for number in range(3)] == [["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"]]


def test_processes_take_turns_and_those_that_fail_are_left_out(tmp_path):
    path = tmp_path / "turns"
    contenders = [
        contender("a", "writer", "a", str(path)),
        contender("refuses", "refuses"),
        contender("dies", "dies"),
        contender("b", "writer", "b", str(path)),
    ]
    lines = []
    measured, left_out = contest(contenders, rounds=2, seconds=1e-9, show=lines.append)
    assert path.read_text().split()[-4:] == ["a1", "b1", "b1", "a1"]
    assert [each.name for each in measured] == ["a", "b"]
    assert all(len(each.seconds) == 2 and each.numbers["peak_bytes"] == 7 for each in measured)
    assert measured[0].compile_seconds is None
    assert left_out == {"refuses": "ValueError: no such device", "dies": "its process ended with exit code 3"}
    assert "dies is left out: its process ended with exit code 3" in lines


def test_a_required_contender_that_fails_ends_the_contest_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)ours failed: Traceback.*in refuses.*no such device"):
        contest([contender("ours", "refuses", required=True)], rounds=1, seconds=0.1, show=lambda line: None)


def test_a_users_mistake_comes_back_as_one():
    with pytest.raises(InputError, match="--image_size=1 is too small"):
        contest([contender("ours", "mistaken")], rounds=1, seconds=0.1, show=lambda line: None)


def test_a_contenders_environment_is_its_own(monkeypatch):
    monkeypatch.delenv("BENCHMARK_TEST", raising=False)
    assert ask(contender("x", "reads", "BENCHMARK_TEST", environment={"BENCHMARK_TEST": "hers"})) == "hers"
    assert "BENCHMARK_TEST" not in os.environ


def test_a_turn_holds_whole_updates_where_it_is_long_enough():
    assert calls_in(5.0, 0.1, period=8) == 48
    assert calls_in(5.0, 1.0, period=8) == 5
    assert calls_in(5.0, 60.0, period=1) == 1


def measured(name, *seconds, samples=8.0, calls=2, compile_seconds=1.5, **numbers):
    return Measured(name, samples, calls, seconds, compile_seconds, {"peak_bytes": 5, **numbers})


def test_ratios_are_taken_round_by_round():
    # The second round is twice as slow for both: rates spread, their ratio does not.
    found = table.results([measured("jax", 1.0, 2.0, 1.0), measured("torch", 2.0, 4.0, 4.0)], flops_per_sample=0)
    ours, theirs = found
    assert ours["rate"] == {"median": 16.0, "lowest": 8.0, "highest": 16.0}
    assert theirs["ours_over_this"] == {"median": 2.0, "lowest": 2.0, "highest": 4.0}
    assert "ours_over_this" not in ours
    assert "flops_per_second" not in ours


def test_the_share_of_the_matrix_product_is_of_its_flops_in_the_same_round():
    found = table.results([measured("jax", 1.0, 2.0), measured("matmul", 1.0, 2.0, samples=1000.0)], 25.0)
    assert found[0]["flops_per_second"]["highest"] == 16 * 25
    assert found[0]["share_of_matmul"] == {"median": 0.2, "lowest": 0.2, "highest": 0.2}
    assert found[1]["flops_per_second"]["highest"] == 2000
    assert "rate" not in found[1]


def test_the_hosts_share_follows_from_an_epochs_lanes():
    share = table.host_share([measured("jax", 1.25), measured("jax back to back", 1.0)])
    assert share["host_share"]["median"] == pytest.approx(0.2)
    assert table.host_share([measured("jax", 1.25)]) == {}


def test_recorded_results_are_read_into_one_table():
    records = table.read_records(ROOT / "experiments/results")
    lines = table.markdown_table(records).splitlines()
    assert len(lines) == len(records) + 2
    assert len({line.count("|") for line in lines}) == 1
    assert all("jax" in table.terminal_table(record) for record in records)


def config_of(**changes):
    size = changes.pop("image_size", 16)
    return with_settings(
        recipe_config("paper", dataset="random_images", image_size=size), {"patch_size": None, **changes}
    )


def test_a_result_is_named_after_what_was_measured():
    plain = Workload(config_of(image_size=32, dtype="float32"), "step", images=64, source_size=32)
    assert table.file_name(plain, "cpu") == "benchmark-resnet18-paper32-32-step-cpu.json"
    other = config_of(stem="cifar", micro_batch_size=512, accumulation=1, dtype="bfloat16")
    name = table.file_name(Workload(other, "epoch", images=512, source_size=16), "gpu")
    assert name == "benchmark-resnet18-cifar-16-epoch-gpu-512x1-bfloat16.json"


def test_a_variant_is_flags_whose_values_may_be_lists():
    assert parse_variant("no tricks=lax") == Variant("no tricks", (), True)
    assert parse_variant("slow=--xla_one=1, multi_steps, lax") == Variant("slow", ("--xla_one=1",), True, "multi_steps")
    text = "few graphs=--xla_gpu_enable_command_buffer=FUSION,CUBLAS, --xla_gpu_autotune_level=4"
    flags = ("--xla_gpu_enable_command_buffer=FUSION,CUBLAS", "--xla_gpu_autotune_level=4")
    assert parse_variant(text) == Variant("few graphs", flags, False)
    assert parse_variant("none=--xla_one=").xla_flags == ("--xla_one=",)


@pytest.mark.parametrize("text", ["lax", "=lax", "a=", "a=fast", "a=--other=1", "a=--xla_x=1 --y"])
def test_what_is_no_variant_is_refused(text):
    with pytest.raises(InputError, match="--variant"):
        parse_variant(text)


def test_the_flags_of_a_variant_come_after_the_users(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1")
    environment = jax_contender("x", "ours", (), xla_flags=["--xla_one=2"]).environment
    assert environment["XLA_FLAGS"].split()[0] == "--xla_one=1"
    assert environment["XLA_FLAGS"].split()[-1] == "--xla_one=2"
    assert environment["JAX_ENABLE_COMPILATION_CACHE"] == "false"


def test_the_usual_contenders_have_the_stage():
    for stage in STAGES:
        check_contenders(usual_contenders(stage, "cpu"), stage)
        check_contenders(usual_contenders(stage, "gpu"), stage)


def test_an_epoch_too_short_for_an_update_is_refused():
    with pytest.raises(InputError, match=r"--images=511: --stage=epoch needs at least 512"):
        Workload(config_of(), "epoch", images=511, source_size=16)
    assert Workload(config_of(), "epoch", images=1100, source_size=16).micro_batches == 16
    assert usual_images(config_of(micro_batch_size=2048), "epoch", "cpu") == 2048 * 8


def test_flops_of_a_dense_layer_and_of_convolutions_are_those_by_hand():
    import jax
    import jax.numpy as jnp
    from jax import lax

    from experiments.benchmark.flops import count_flops

    def network(x, kernel, depthwise, weights):
        x = lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = lax.conv_general_dilated(
            x, depthwise, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=16
        )
        x, _ = lax.scan(lambda x, _: (x @ weights, None), jax.jit(jnp.sum, static_argnums=1)(x, (1, 2)), length=3)
        return x

    shapes = [(2, 8, 8, 4), (3, 3, 4, 16), (5, 5, 1, 16), (16, 16)]
    jaxpr = jax.make_jaxpr(network)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    strided, depthwise, dense = 2 * 4 * 4 * 16 * 3 * 3 * 4, 2 * 4 * 4 * 16 * 5 * 5, 3 * 2 * 16 * 16
    assert count_flops(jaxpr) == 2 * (strided + depthwise + dense)


def test_resnet18_at_224_has_its_published_multiply_adds():
    from experiments.benchmark.flops import flops_per_sample

    config = config_of(image_size=224)
    multiply_adds = flops_per_sample(config, "eval") / 2
    # 1.82 GMAC in timm's tables, norms and the classifier among them; 1.8 in He et al. (2016), table 1.
    assert multiply_adds == pytest.approx(1.82e9, rel=0.005)
    heads = 2 * (512 * 1024 + 2 * 1024**2 + 2 * 256 * 1024)
    assert flops_per_sample(config, "forward") == 2 * (2 * multiply_adds + heads)
    assert flops_per_sample(config, "step") == 3 * flops_per_sample(config, "forward")


def import_torch_augment():
    """torch and our augmentation in it; skips the calling test where they are missing."""
    import_torchvision()
    from experiments.benchmark import torch_augment

    return pytest.importorskip("torch"), torch_augment


def test_pytorch_draws_our_boxes():
    torch, torch_augment = import_torch_augment()
    import jax.numpy as jnp

    from simsiam_jax.data import augment

    numbers = np.random.default_rng(0).random((500, augment.CROP_NUMBERS), np.float32)
    for height, width, scale in ((32, 32, (0.2, 1.0)), (20, 60, (0.8, 1.2))):
        settings = {"scale": scale, "ratio": (3 / 4, 4 / 3)}
        ours = augment.crop_boxes(jnp.array(numbers), height=height, width=width, **settings)
        theirs = torch_augment.crop_boxes(torch.tensor(numbers), height, width, **settings)
        np.testing.assert_array_equal(np.asarray(ours), theirs.numpy())


@pytest.mark.parametrize("size", [32, 48])
def test_pytorch_makes_our_views_of_the_same_draws(size):
    torch, torch_augment = import_torch_augment()
    import jax.numpy as jnp

    from simsiam_jax.data import augment

    draws, count = np.random.default_rng(1), 24
    images = draws.integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    boxes = np.stack([draws.integers(0, 10, count), draws.integers(0, 10, count),
                      draws.integers(8, 30, count), draws.integers(8, 30, count)], 1).astype(np.int32)  # fmt: skip
    flips, jittered, grey, blurred = draws.random((4, count)) < 0.5
    factors = draws.uniform([0.6, 0.6, 0.6, -0.1], [1.4, 1.4, 1.4, 0.1], (count, 4)).astype(np.float32)
    sigma, order = draws.uniform(0.1, 2.0, count).astype(np.float32), [2, 0, 3, 1]
    spec = ViewSpec(size)
    assert spec.blur_kernel > 1

    def choose(chosen, changed, unchanged):
        return jnp.where(chosen[:, None, None, None], changed, unchanged)

    ours = augment.crop_and_resize(jnp.float32(images) / 255, jnp.array(boxes), jnp.array(flips), size)
    adjust = [augment.adjust_brightness, augment.adjust_contrast, augment.adjust_saturation, augment.adjust_hue]
    ours = choose(jittered, augment.colour_jitter(ours, adjust, jnp.array(factors), jnp.array(order)), ours)
    ours = choose(grey, augment.greyscale(ours), ours)
    ours = choose(blurred, augment.gaussian_blur(ours, jnp.array(sigma), spec.blur_kernel), ours)
    ours = augment.normalise(ours, spec.mean, spec.std)

    values = (boxes.astype(np.float32), flips, jittered, factors, grey, blurred, sigma)
    boxes, flips, jittered, factors, grey, blurred, sigma = map(torch.tensor, values)
    theirs = torch_augment.Augment(spec, torch.device("cpu")).apply(
        torch.tensor(images.transpose(0, 3, 1, 2)),
        torch_augment.Draws(boxes, flips, jittered, factors, order, grey, blurred, sigma),
    )
    np.testing.assert_allclose(np.asarray(ours), theirs.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-4)


def test_pytorchs_draws_have_our_probabilities():
    torch, torch_augment = import_torch_augment()
    torch.manual_seed(0)
    spec = ViewSpec(32)
    draws = torch_augment.Augment(spec, torch.device("cpu")).draw(20_000, torch.zeros(2, 3, 32, 32))
    for name, share in (("flips", 0.5), ("jittered", 0.8), ("grey", 0.2), ("blurred", 0.5)):
        assert getattr(draws, name).float().mean().item() == pytest.approx(share, abs=0.02)
    low, high = draws.factors.amin(0), draws.factors.amax(0)
    np.testing.assert_allclose(low.numpy(), [0.6, 0.6, 0.6, -0.1], atol=1e-3)
    np.testing.assert_allclose(high.numpy(), [1.4, 1.4, 1.4, 0.1], atol=1e-3)
    assert draws.sigma.min().item() == pytest.approx(0.1, abs=1e-3)
    assert draws.sigma.max().item() == pytest.approx(2.0, abs=1e-3)


def test_pytorchs_evaluation_view_is_ours():
    torch, torch_augment = import_torch_augment()
    from simsiam_jax.data.views import evaluation_view

    images = np.random.default_rng(2).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    for size in (40, 32):
        ours = evaluation_view(images, spec=ViewSpec(size))
        augment = torch_augment.Augment(ViewSpec(size), torch.device("cpu"))
        theirs = augment.evaluation_view(torch.tensor(images.transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-4)


def import_torch():
    """torch, beside timm; skips the calling test where one of them is missing."""
    import_torchvision()  # before timm, which does so itself and cannot mend it
    pytest.importorskip("timm")
    return pytest.importorskip("torch")


def tiny_pair():
    """Our SimSiam with its variables, and PyTorch's with the same weights."""
    torch = import_torch()
    import jax

    from experiments.benchmark.torch_models import SimSiam as TorchSimSiam
    from simsiam_jax.models import SimSiam, create_backbone
    from simsiam_jax.weights import timm_code, to_timm

    config = config_of(width=0.125, projector_dim=32, predictor_dim=8, micro_batch_size=8, accumulation=2)
    backbone = create_backbone("resnet18", 16, stem="paper32", width=0.125)
    model = SimSiam(backbone, config.program.head)
    image = np.zeros((1, 16, 16, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image, image)
    state = to_timm("resnet18", {name: tree["backbone"] for name, tree in variables.items()})
    weights = {f"backbone.{name}": torch.tensor(array) for name, array in state.items()}
    for head in ("projector", "predictor"):
        for layer, leaves in variables["params"][head].items():
            for leaf, value in leaves.items():
                array = np.array(value).T if leaf == "kernel" else np.array(value)
                weights[f"{head}.{layer}.{'bias' if leaf == 'bias' else 'weight'}"] = torch.tensor(array)
    network = TorchSimSiam(timm_code(backbone, 16), config.program.head)
    absent = network.load_state_dict(weights, strict=False)
    assert not absent.unexpected_keys
    assert all(name.split(".")[-1].startswith(("running", "num_batches")) for name in absent.missing_keys)
    return torch, config, model, variables, network


def test_pytorchs_loss_of_the_same_weights_is_ours():
    torch, _, model, variables, network = tiny_pair()
    import jax.numpy as jnp

    from simsiam_jax.losses import simsiam_loss
    from simsiam_jax.models import train_on_batches

    views = np.random.default_rng(3).normal(size=(2, 8, 16, 16, 3)).astype(np.float32)
    (p, z), _ = train_on_batches(model, variables, jnp.stack([*map(jnp.array, views)]))
    theirs = network.train().loss(*(torch.tensor(view.transpose(0, 3, 1, 2)) for view in views))
    assert float(simsiam_loss(*p, *z)) == pytest.approx(theirs.item(), abs=1e-5)


def test_pytorch_updates_once_in_an_accumulation_with_the_mean_gradient():
    torch, config, _, _, network = tiny_pair()
    from experiments.benchmark.torch_training import Trainer

    class Shared:
        """What a trainer asks of its side."""

        mode, loss = None, staticmethod(network.loss)

        def autocast(self):
            return torch.autocast("cpu", torch.bfloat16, enabled=False)

    Shared.network, Shared.config = network, config
    Shared.workload = Workload(config, "step", images=16, source_size=16)
    trainer = Trainer(Shared())
    weight = network.projector.fc1.weight
    before = weight.detach().clone()
    views = torch.randn(2, 8, 3, 16, 16)
    trainer.micro_step(*views)
    first = weight.grad.clone()
    assert torch.equal(weight, before)
    gradients = []
    weight.register_post_accumulate_grad_hook(lambda parameter: gradients.append(parameter.grad.clone()))
    trainer.micro_step(*views)
    assert not torch.equal(weight, before)
    # The same batch again has the same gradient: the mean of the two is what one has alone.
    torch.testing.assert_close(gradients[0], 2 * first)
    others, predictor = trainer.optimizer.param_groups
    assert sum(map(torch.numel, predictor["params"])) == sum(map(torch.numel, network.predictor.parameters()))
    assert len(others["params"]) + len(predictor["params"]) == len(list(network.parameters()))
    assert predictor["weight_decay"] == config.program.optimizer.weight_decay


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stage=fly"], ["--stage", "fly", "augment"]),
        (["--contenders=jax,tf"], ["--contenders", "'tf'", "torch_compiled"]),
        (["--contenders=jax,torch_dataloader", "--stage=eval"], ["torch_dataloader", "--stage=eval", "augment"]),
        (["--variant=fast"], ["--variant=fast", "NAME=--xla_flag=VALUE"]),
        (["--backbone=resnet81"], ["--backbone=resnet81", "did you mean resnet18"]),
        (["--image_size=7"], ["--image_size=7", "paper32 stem", "16 pixels"]),
        (["--rounds=0"], ["--rounds", "at least 1"]),
        (["--summarise=/no/such/place"], ["--summarise=/no/such/place", "benchmark-*.json"]),
    ],
)
def test_a_mistake_in_a_flag_is_one_line(flags, words):
    refused(launch("benchmark", *flags), *words)


def test_help_names_the_command_and_its_stages():
    result = launch("benchmark", "--help")
    assert result.returncode == 0
    assert "Command: python -m experiments.benchmark" in result.stdout
    assert all(stage in result.stdout for stage in STAGES)


@pytest.mark.slow
def test_a_small_benchmark_leaves_a_result_that_can_be_summarised(tmp_path):
    flags = ["--width=0.125", "--image_size=16", "--micro_batch_size=8", "--accumulation=2"]
    flags += ["--rounds=1", "--seconds=0.1", "--contenders=jax,torch", f"--workdir={tmp_path}"]
    result = launch("benchmark", *flags, "--variant=lax=lax")
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("benchmark-*.json")
    assert path.name == "benchmark-resnet18-paper32-16-step-cpu-width0.125-8x2.json"
    values = json.loads(path.read_text())
    names = {each["name"]: each for each in values["contenders"]}
    assert {"jax", "jax lax", "matmul"} <= names.keys() <= {"jax", "torch", "jax lax", "matmul"}
    for each in values["contenders"]:
        assert len(each["seconds"]) == 1
        assert each["peak_bytes"] > 50e6
    assert names["jax"]["compile_seconds"] > 0.1
    assert 0 < names["jax"]["share_of_matmul"]["median"] < 1
    assert values["command"].startswith("python -m experiments.benchmark --width=0.125")
    assert values["versions"]["jax"]
    summary = launch("benchmark", f"--summarise={tmp_path}")
    assert "| resnet18 paper32 width 0.125, 16×16, 8×2, float32, step |" in summary.stdout
