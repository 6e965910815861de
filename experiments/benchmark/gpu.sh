#!/bin/sh
# Measures what matters on one GPU, each part within a time limit. Run again with the same folder, it does what is missing.
#
#   sh experiments/benchmark/gpu.sh [FOLDER]        (runs/benchmark_gpu; PYTHON=.venv/bin/python; about an hour cold)
#
# Fashion-MNIST is found in --data_dir or --manual_dir: DATA="--data_dir=.data" sh experiments/benchmark/gpu.sh
set -u
out=${1:-runs/benchmark_gpu}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

# part NAME SECONDS COMMAND... runs a command. NAME.log holds its output; NAME.seconds holds how long it took, if it ended
# well.
part() {
    name=$1 limit=$2
    shift 2
    [ -e "$out/$name.seconds" ] && return
    echo "$name: at most $limit s"
    begun=$(date +%s)
    if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then
        echo $(($(date +%s) - begun)) >"$out/$name.seconds"
    else
        echo "$name ended with $?: see $out/$name.log"
    fi
}

bench() {
    name=$1
    shift
    part "$name" 540 "$python" -m experiments.benchmark --workdir="$out" --dtype=bfloat16 "$@"
}

# The step with the paper's settings beside PyTorch's, and flags of XLA that may become defaults in runtime.py.
bench step --stem=paper32 --variant="lax=lax" \
    --variant="no graphs=--xla_gpu_enable_command_buffer=" \
    --variant="latency hiding=--xla_gpu_enable_latency_hiding_scheduler=true" \
    --variant="no autotuning=--xla_gpu_autotune_level=0" \
    --trace="$out/trace"
# A batch that fills the device shows the share of the matrix product that a network for small images reaches.
bench step_cifar_512 --stem=cifar --micro_batch_size=512 --accumulation=1 --contenders=jax,torch,torch_compiled
for stage in augment epoch eval; do
    bench "$stage" --stem=paper32 --stage=$stage --contenders=jax,torch
done
for backbone in efficientnet_b0 vit_s pit_ti; do
    bench "$backbone" --backbone=$backbone --image_size=96 --contenders=jax,torch,torch_compiled
done

# Table 1's protocol has 60,000 images, three arms, 100 epochs and fine-tuning, one seed. Target: 10 minutes.
part table1 900 "$python" -m experiments.table1_fashion_mnist --preset=full --seeds=1 --dtype=bfloat16 \
    --workdir="$out/table1_fashion_mnist" ${DATA:-}
# The settings of lightly's CIFAR-10 benchmark (97 minutes on an A6000) on as many images of Fashion-MNIST as there are
# to pretrain on, resized to 32×32. Target: 15 minutes.
part lightly 1200 "$python" -m experiments.pretrain --dataset=fashion_mnist --preset=full --recipe=reference \
    --image_size=32 --stem=cifar --micro_batch_size=128 --accumulation=1 --epochs=200 --knn_every=1 --seeds=1 \
    --pretrain_images=50000 --dtype=bfloat16 --workdir="$out/lightly" ${DATA:-}
