"""Draws the book's figures: `python scripts/figures.py`. With `--check` it writes nothing and exits 1 if a figure in the
repository is not what this script draws.

Python's standard library only. The numbers in the pictures are read from models/demo, benches/results and notebooks/data, the names of the
model's parts are looked up in src/model/decoder.rs. What each picture shows is in scripts/figures/.
"""

import argparse
import sys

from figures import attention, cpu, decoder, flash_attention, kernels, kv, loading, paged_attention, paging, parallel, quantized, recorded, scheduling, serving, sources, staircase

CHAPTER_1 = "steps/step1-forward/figures"
CHAPTER_2 = "steps/step2-kv-cache/figures"
CHAPTER_3 = "steps/step3-scheduling/figures"
CHAPTER_4 = "steps/step4-paged-kv/figures"
CHAPTER_5 = "steps/step5-paged-attention/figures"
CHAPTER_6 = "steps/step6-flash-attention/figures"
CHAPTER_7 = "steps/step7-parallel/figures"
CHAPTER_8 = "steps/step8-serve/figures"
CHAPTER_9 = "steps/step9-quantized/figures"

# Where each figure goes, and what draws it.
FIGURES = {
    "steps/figures/staircase.svg": staircase.staircase,
    f"{CHAPTER_1}/module-tree.svg": decoder.module_tree,
    f"{CHAPTER_1}/token-through-layer.svg": decoder.token_through_layer,
    f"{CHAPTER_1}/rope-conventions.svg": attention.rope_conventions,
    f"{CHAPTER_1}/head-sharing.svg": attention.head_sharing,
    f"{CHAPTER_1}/recompute-cost.svg": attention.recompute_cost,
    f"{CHAPTER_1}/safetensors-file.svg": loading.safetensors_file,
    f"{CHAPTER_1}/byte-to-parameter.svg": loading.byte_to_parameter,
    f"{CHAPTER_2}/rows-computed.svg": kv.rows_computed,
    f"{CHAPTER_2}/layout.svg": kv.layout,
    f"{CHAPTER_2}/ring.svg": kv.ring,
    f"{CHAPTER_2}/next-token.svg": kv.next_token,
    f"{CHAPTER_3}/flat-row.svg": scheduling.flat_row,
    f"{CHAPTER_3}/lanes.svg": scheduling.lanes,
    f"{CHAPTER_3}/budget.svg": scheduling.budget,
    f"{CHAPTER_3}/slots.svg": scheduling.slots,
    f"{CHAPTER_3}/measured.svg": scheduling.measured,
    f"{CHAPTER_3}/timeline.svg": recorded.timeline,
    f"{CHAPTER_4}/slots-and-blocks.svg": paging.slots_and_blocks,
    f"{CHAPTER_4}/block-table.svg": paging.block_table,
    f"{CHAPTER_4}/copy-on-write.svg": paging.copy_on_write,
    f"{CHAPTER_4}/chain.svg": paging.chain,
    f"{CHAPTER_4}/measured.svg": paging.measured,
    f"{CHAPTER_4}/blocks.svg": recorded.blocks,
    f"{CHAPTER_4}/amx-tile.svg": cpu.amx_tile,
    f"{CHAPTER_4}/attention-blocks.svg": cpu.attention_blocks,
    f"{CHAPTER_4}/roofline.svg": cpu.roofline,
    f"{CHAPTER_5}/hierarchy.svg": kernels.hierarchy,
    f"{CHAPTER_5}/sectors.svg": kernels.sectors,
    f"{CHAPTER_5}/banks.svg": kernels.banks,
    f"{CHAPTER_5}/race.svg": kernels.race,
    f"{CHAPTER_5}/ladder.svg": kernels.ladder,
    f"{CHAPTER_5}/online_softmax.svg": paged_attention.online_softmax,
    f"{CHAPTER_5}/group.svg": paged_attention.group,
    f"{CHAPTER_5}/parts.svg": paged_attention.parts,
    f"{CHAPTER_5}/attention_ladder.svg": paged_attention.counters,
    f"{CHAPTER_6}/tiles.svg": flash_attention.tiles,
    f"{CHAPTER_6}/meeting.svg": flash_attention.meeting,
    f"{CHAPTER_6}/moved.svg": flash_attention.moved,
    f"{CHAPTER_6}/fragments.svg": flash_attention.fragments,
    f"{CHAPTER_6}/swizzle.svg": flash_attention.swizzle,
    f"{CHAPTER_6}/two_buffers.svg": flash_attention.two_buffers,
    f"{CHAPTER_7}/topology.svg": parallel.topology,
    f"{CHAPTER_7}/slices.svg": parallel.slices,
    f"{CHAPTER_7}/all_reduces.svg": parallel.all_reduces,
    f"{CHAPTER_7}/bubble.svg": parallel.bubble,
    f"{CHAPTER_7}/ring.svg": parallel.ring,
    f"{CHAPTER_8}/components.svg": serving.components,
    f"{CHAPTER_8}/one-request.svg": serving.one_request,
    f"{CHAPTER_8}/outbox.svg": serving.outbox,
    f"{CHAPTER_8}/lifecycle.svg": serving.lifecycle,
    f"{CHAPTER_9}/grid.svg": quantized.grid,
    f"{CHAPTER_9}/error-moves.svg": quantized.error_moves,
    f"{CHAPTER_9}/layouts.svg": quantized.layouts,
    f"{CHAPTER_9}/chunk.svg": quantized.chunk,
    f"{CHAPTER_9}/fp8.svg": quantized.fp8,
    f"{CHAPTER_9}/pickle.svg": quantized.pickle,
    f"{CHAPTER_9}/quality.svg": quantized.quality,
}


def main():
    parser = argparse.ArgumentParser(description="Draw the book's figures.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a figure is not up to date")
    check = parser.parse_args().check
    stale = []
    for path, draw in FIGURES.items():
        file = sources.ROOT / path
        try:
            text = draw().svg()
        except sources.NotRecorded as e:
            print(f"{path}: skipped, {e}", file=sys.stderr)
            if file.exists():
                stale.append(path)
            continue
        except (OSError, ValueError) as e:
            sys.exit(f"{path}: {e}")
        except KeyError as e:
            sys.exit(f"{path}: what it is drawn from has no {e}")
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
            print(f"{path}: {len(text.encode())} bytes")
    if check and stale:
        sys.exit(f"not what scripts/figures.py draws, run it: {', '.join(stale)}")


if __name__ == "__main__":
    main()
