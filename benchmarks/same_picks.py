"""Train again on the picks of a benchmark's row with other first weights: was it the picks, or that training?

    cd benchmarks; python same_picks.py montgomery_two_cores.yaml results/montgomery_two_cores/rows.jsonl \
        --images IMAGES --labels LABELS --seed 43 --budget 12 --arm "Entropy (alpha 0)" --weights 1,2,3

The images, the test set and everything else are those of the row; only the seed of the weights, of the order of the
images and of the dropout is another one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from coldstart.experiments.bench import read_images
from coldstart.experiments.datasets import split
from coldstart.experiments.protocol_files import load_protocol
from coldstart.experiments.rows import read_rows
from coldstart.experiments.runs import training_config
from coldstart.segmentation import evaluate, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--group-by")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--budget", type=int, required=True)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--weights", default="1,2,3")
    arguments = parser.parse_args()
    wanted = arguments.seed, arguments.budget, arguments.arm
    found = [row for row in read_rows(arguments.rows) if (row.cell.seed, row.cell.budget, row.cell.arm) == wanted]
    if not found:
        parser.error(f"{arguments.rows} has no row of seed {wanted[0]}, budget {wanted[1]} and arm '{wanted[2]}'.")
    named = {key: getattr(arguments, key) for key in ("images", "labels", "manifest", "group_by")}
    protocol = load_protocol(arguments.protocol, {key: value for key, value in named.items() if value is not None})
    dataset = read_images(protocol)
    test = [dataset.samples[row] for row in split(dataset, arguments.seed, protocol.test_fraction).test]
    samples = [sample for sample in dataset.samples if sample.image_id in found[0].picks]
    config = training_config(protocol, dataset, arguments.seed, "auto")
    print(f"in the row: Dice {found[0].dice:.4f}")
    for seed in map(int, arguments.weights.split(",")):
        model = train(samples, replace(config, random_state=seed))
        result = evaluate(model, test)
        classes = ", ".join(f"{name} {dice:.4f}" for name, dice in result.class_dice.items())
        loss = model.metadata["losses"][-1]
        print(f"weights {seed}: Dice {result.dice:.4f} ({classes}), loss at the end {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
