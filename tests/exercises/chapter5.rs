//! The exercises of chapter 5 are honest: see chapter1.rs.

#[allow(unused_imports)] // what only the tests in them use
#[path = "../../steps/step5-paged-attention"]
mod step5_paged_attention {
    pub mod exercise;
    pub mod solution;
}

use crate::contracts::step5::{
    combine, heuristic, mended, paged_walk, tells_the_demo_story, transpose, warp_sum,
};
use crate::rig::{self, Case, KEPT};
use step5_paged_attention::{exercise, solution};

const STUBS: &[Case] = &[
    ("warp_sum", || warp_sum("exercise::warp_sum"), Some("not written yet: add up the numbers of 32 lanes")),
    ("transpose", || transpose("exercise::transpose"), Some("not written yet: turn a tile of 32 x 32")),
    (
        "turn_round",
        || mended(["exercise::turn_round", "solution::difference", "solution::sum_of_twenty"]),
        Some("not mended yet: turn_round"),
    ),
    (
        "difference",
        || mended(["solution::turn_round", "exercise::difference", "solution::sum_of_twenty"]),
        Some("not mended yet: difference"),
    ),
    (
        "sum_of_twenty",
        || mended(["solution::turn_round", "solution::difference", "exercise::sum_of_twenty"]),
        Some("at a warp operation (line "),
    ),
    ("the story", || tells_the_demo_story("exercise::rms_norm"), Some("not written yet: add up")),
    (
        "paged_walk",
        || paged_walk("exercise::paged_walk"),
        Some("not written yet: walk through the block table"),
    ),
    ("combine", || combine("exercise::combine"), Some("not written yet: merge the parts")),
    ("heuristic", || heuristic(exercise::my_parts), Some("not written yet: beat a fixed part length")),
];

const SOLUTIONS: &[Case] = &[
    ("warp_sum", || warp_sum("solution::warp_sum"), KEPT),
    ("transpose", || transpose("solution::transpose"), KEPT),
    (
        "the bugs",
        || mended(["solution::turn_round", "solution::difference", "solution::sum_of_twenty"]),
        KEPT,
    ),
    ("the story", || tells_the_demo_story("solution::rms_norm"), KEPT),
    ("paged_walk", || paged_walk("solution::paged_walk"), KEPT),
    ("combine", || combine("solution::combine"), KEPT),
    ("heuristic", || heuristic(solution::my_parts), KEPT),
];

const WRONG: &[Case] = &[
    (
        "first_lane_only",
        || warp_sum("wrong::first_lane_only"),
        Some("did you give the sum to the first lane only"),
    ),
    ("half_a_warp", || warp_sum("wrong::half_a_warp"), Some("did you add up a part of the warp")),
    ("through_memory", || warp_sum("wrong::through_memory"), Some("did you mean to use shuffles?")),
    (
        "half_a_warp's story",
        || tells_the_demo_story("wrong::rms_norm_of_half"),
        Some("the demo story differs at token"),
    ),
    (
        "writes_columns",
        || transpose("wrong::writes_columns"),
        Some("did you let the lanes of a warp write along a column?"),
    ),
    ("one_bank", || transpose("wrong::one_bank"), Some("did you give a row of the tile a 33rd number?")),
    (
        "no_barrier",
        || transpose("wrong::no_barrier"),
        Some("did you read the tile before all of it was written?"),
    ),
    ("whole_tiles", || transpose("wrong::whole_tiles"), Some("did you leave out the tiles at the edge")),
    (
        "barrier_of_a_warp",
        || mended(["wrong::barrier_of_a_warp", "solution::difference", "solution::sum_of_twenty"]),
        Some("not mended yet: barrier_of_a_warp"),
    ),
    (
        "last_left_out",
        || mended(["solution::turn_round", "wrong::last_left_out", "solution::sum_of_twenty"]),
        Some("not mended yet: last_left_out: number 299 of 300 is NaN, expected 0"),
    ),
    (
        "mask_of_twenty",
        || mended(["solution::turn_round", "solution::difference", "wrong::mask_of_twenty"]),
        Some("not mended yet: mask_of_twenty"),
    ),
    (
        "walk_without_rescale",
        || paged_walk("wrong::walk_without_rescale"),
        Some("did you leave what was summed as it was when a larger score came?"),
    ),
    ("walk_without_table", || paged_walk("wrong::walk_without_table"), Some("did you follow the table")),
    ("walk_too_far", || paged_walk("wrong::walk_too_far"), Some("stop at `tokens`?")),
    (
        "walk_without_largest",
        || paged_walk("wrong::walk_without_largest"),
        Some("did you subtract the largest score before exp?"),
    ),
    (
        "combine_without_largest",
        || combine("wrong::combine_without_largest"),
        Some("did you add parts as they are, though each is relative to a largest score of its own?"),
    ),
    (
        "combine_by_average",
        || combine("wrong::combine_by_average"),
        Some("did you give each part the same share"),
    ),
    ("never divided", || heuristic(|_| 1), Some("did you leave most of the GPU idle?")),
    ("always divided", || heuristic(|_| 64), Some("did you divide what was enough")),
    (
        "rounded up",
        || heuristic(|work| work.blocks_at_a_time.div_ceil(work.sequences * work.kv_heads)),
        Some("did you begin a wave for a few blocks?"),
    ),
];

/// How many checks fail.
pub fn run() -> usize {
    let exercise = concat!(
        include_str!("../../steps/step5-paged-attention/exercise.cu"),
        include_str!("../../steps/step5-paged-attention/exercise.rs")
    );
    rig::run(STUBS, SOLUTIONS, WRONG, exercise)
}
