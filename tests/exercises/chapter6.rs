//! The exercises of chapter 6 are honest: see chapter1.rs.

use crate::contracts::step6::{meet, swizzle, tells_the_demo_story, tile_loop};
use crate::rig::{self, Case, KEPT};

const STUBS: &[Case] = &[
    ("meet", || meet("exercise::meet"), Some("not written yet: let a tile of 32 scores meet")),
    ("tile_loop", || tile_loop("exercise::tile_loop"), Some("not written yet: loop over tiles")),
    ("swizzle", || swizzle("exercise::swizzle"), Some("not written yet: find each piece a place")),
    (
        "the story",
        || tells_the_demo_story("exercise::flash_with_my_meet"),
        Some("not written yet: let a tile of 32 scores meet"),
    ),
];

const SOLUTIONS: &[Case] = &[
    ("meet", || meet("solution::meet"), KEPT),
    ("tile_loop", || tile_loop("solution::tile_loop"), KEPT),
    ("swizzle", || swizzle("solution::swizzle"), KEPT),
    ("the story", || tells_the_demo_story("solution::flash_with_my_meet"), KEPT),
];

const WRONG: &[Case] = &[
    (
        "meet_without_correction",
        || meet("wrong::meet_without_correction"),
        Some("did you leave what was summed as it was when a larger score came?"),
    ),
    (
        "meet_by_tile",
        || meet("wrong::meet_by_tile"),
        Some("did you take the largest of the tile alone, and forget that of the tiles before?"),
    ),
    ("meet_masked", || meet("wrong::meet_masked"), Some("did you subtract -INFINITY from -INFINITY?")),
    (
        "a story without correction",
        || tells_the_demo_story("wrong::flash_without_correction"),
        Some("the demo story differs at token"),
    ),
    (
        "loop_without_barrier",
        || tile_loop("wrong::loop_without_barrier"),
        Some("did you wait before a tile is read, and before it is overwritten?"),
    ),
    (
        "loop_without_mask",
        || tile_loop("wrong::loop_without_mask"),
        Some("did you let rows see the whole tile on the diagonal?"),
    ),
    (
        "loop_over_all_tiles",
        || tile_loop("wrong::loop_over_all_tiles"),
        Some("did you read tiles that no row of the block sees?"),
    ),
    (
        "loop_without_tiles",
        || tile_loop("wrong::loop_without_tiles"),
        Some("did you read K and V from global memory for every row?"),
    ),
    ("unswizzled", || swizzle("wrong::unswizzled"), Some("lie at 8 different places modulo 8?")),
    ("half_swizzled", || swizzle("wrong::half_swizzled"), Some("lie at 8 different places modulo 8?")),
    ("shared_place", || swizzle("wrong::shared_place"), Some("did you give two pieces one place?")),
];

/// How many checks fail.
pub fn run() -> usize {
    rig::run(STUBS, SOLUTIONS, WRONG, include_str!("../../steps/step6-flash-attention/exercise.cu"))
}
