#!/bin/sh
# Measures what matters on one GPU, each part within a time limit. Run again with the same folder, it does what is missing.
#
#   sh experiments/benchmark/gpu.sh [FOLDER]      (runs/benchmark_gpu; PYTHON=.venv/bin/python; about 1.5 hours cold)
#
# A part takes at most ten minutes; the two full studies go on where they were stopped when the script is run again.
# CIFAR10=--dataset=folder:PATH names a copy of CIFAR-10 with train/ and test/. Fashion-MNIST is found in --data_dir or
# --manual_dir: DATA="--data_dir=.data" sh experiments/benchmark/gpu.sh
set -u
out=${1:-runs/benchmark_gpu}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

# part NAME COMMAND... runs a command. NAME.log holds its output; NAME.seconds holds how long it took, if it ended well.
part() {
    name=$1
    shift
    [ -e "$out/$name.seconds" ] && return
    echo "$name: at most 590 s"
    begun=$(date +%s)
    if timeout 590 "$@" >>"$out/$name.log" 2>&1; then
        echo $(($(date +%s) - begun)) >"$out/$name.seconds"
    else
        echo "$name ended with $?: see $out/$name.log, and run this script again"
    fi
}

bench() {
    name=$1
    shift
    # A folder for each: parts that measure the same stage have files of the same name.
    part "$name" "$python" -m experiments.benchmark --workdir="$out/$name" --dtype=bfloat16 "$@"
}

# What the compiled program promises, to stand beside what is measured. Without the plugin of the extra `audit` this part
# fails, and experiments/results/audit has the numbers.
part audit "$python" -m experiments.benchmark.audit --stem=paper32 --out="$out"

# The update with the paper's settings beside PyTorch's, its other forms, and flags of XLA that may become defaults.
# "captured" says whether cuDNN's convolutions let themselves be recorded: it is left out of the table if they do not.
bench step --stem=paper32 --trace="$out/step/trace"
bench forms --stem=paper32 --contenders=jax --rounds=3 \
    --variant="loop=loop" --variant="multi steps=multi_steps" --variant="lax=lax"
bench flags --stem=paper32 --contenders=jax --rounds=3 \
    --variant="captured=--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE" \
    --variant="no graphs=--xla_gpu_enable_command_buffer=" \
    --variant="latency hiding=--xla_gpu_enable_latency_hiding_scheduler=true" \
    --variant="no autotuning=--xla_gpu_autotune_level=0"
# A batch that fills the device shows the share of the matrix product that a network for small images reaches.
bench step_cifar_512 --stem=cifar --micro_batch_size=512 --accumulation=1 --contenders=jax,torch,torch_compiled
for stage in augment forward epoch eval; do
    bench "$stage" --stem=paper32 --stage=$stage --contenders=jax,torch
done
for backbone in resnet18 efficientnet_b0 vit_s pit_ti; do
    bench "${backbone}_96" --backbone=$backbone --image_size=96
done

# Table 1's protocol at full length, one seed: 60,000 images, three arms, 100 epochs and fine-tuning. Target: 10 minutes.
part table1_fashion_mnist "$python" -m experiments.table1_fashion_mnist --preset=full --seeds=1 \
    --workdir="$out/table1_fashion_mnist" ${DATA:-}
[ -z "${CIFAR10:-}" ] || part table1_cifar10 "$python" -m experiments.table1_cifar10 --preset=full --seeds=1 \
    --cached_size=32 --image_size=32 --workdir="$out/table1_cifar10" "$CIFAR10"
# The settings of lightly's CIFAR-10 benchmark (97 minutes on an A6000), on CIFAR-10 where it is at hand, else on as many
# images of Fashion-MNIST. Target: 15 minutes, so two runs of this script.
part lightly "$python" -m experiments.pretrain "${CIFAR10:---dataset=fashion_mnist}" --preset=full --recipe=reference \
    --image_size=32 --stem=cifar --micro_batch_size=128 --accumulation=1 --epochs=200 --min_updates=1 --knn_every=1 \
    --seeds=1 --pretrain_images=50000 --workdir="$out/lightly" ${DATA:-}
