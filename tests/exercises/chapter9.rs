//! The exercises of chapter 9 are honest: see chapter1.rs.

#[allow(unused_imports)] // what only the tests in them use
#[path = "../../steps/step9-quantized"]
mod step9_quantized {
    pub mod exercise;
    pub mod solution;
    pub mod wrong;
}

use crate::contracts::step9;
use crate::rig::{self, Case, KEPT};
use step9_quantized::{
    exercise as stub,
    solution::{my_column, my_pack, my_step, my_unpack, my_update},
    wrong,
};

const PACK: Option<&str> = Some("not written yet: put each code at its place");
const UNPACK: Option<&str> = Some("not written yet: take each column's code");
const COLUMN: Option<&str> = Some("not written yet: read the codes of the column");
const UPDATE: Option<&str> = Some("not written yet: move the error of weight j");
const PICKLE: Option<&str> = Some("not written yet: compare the name");

const STUBS: &[Case] = &[
    ("pack", || step9::pack(stub::my_pack), PACK),
    ("unpack", || step9::unpack(stub::my_unpack), UNPACK),
    ("AWQ's story", || step9::awq_tells_the_demo_story(stub::my_pack, stub::my_unpack), PACK),
    ("column", || step9::column(stub::my_column), COLUMN),
    ("GPTQ's story", || step9::gptq_tells_the_demo_story(stub::my_column), COLUMN),
    ("update", || step9::update(stub::my_update), UPDATE),
    ("the demo's update", || step9::quantizes_the_demo(stub::my_update), UPDATE),
    ("pickle", || step9::pickle(stub::my_step), PICKLE),
];

const SOLUTIONS: &[Case] = &[
    ("pack", || step9::pack(my_pack), KEPT),
    ("unpack", || step9::unpack(my_unpack), KEPT),
    ("AWQ's story", || step9::awq_tells_the_demo_story(my_pack, my_unpack), KEPT),
    ("column", || step9::column(my_column), KEPT),
    ("GPTQ's story", || step9::gptq_tells_the_demo_story(my_column), KEPT),
    ("update", || step9::update(my_update), KEPT),
    ("the demo's update", || step9::quantizes_the_demo(my_update), KEPT),
    ("pickle", || step9::pickle(my_step), KEPT),
];

const WRONG: &[Case] = &[
    ("pack_in_order", || step9::pack(wrong::pack_in_order), Some("did you pack the columns in order")),
    ("pack_inverse", || step9::pack(wrong::pack_inverse), Some("did you ask where a column goes")),
    (
        "pack_from_the_top",
        || step9::pack(wrong::pack_from_the_top),
        Some("did you put the first one into the highest bits?"),
    ),
    (
        "pack_in_order's story",
        || step9::awq_tells_the_demo_story(wrong::pack_in_order, my_unpack),
        Some("the demo story from words that your pack has made"),
    ),
    ("unpack_in_order", || step9::unpack(wrong::unpack_in_order), Some("did you read the fields in order")),
    (
        "unpack_inverse",
        || step9::unpack(wrong::unpack_inverse),
        Some("did you take what the order says of a place"),
    ),
    ("unpack_bytes", || step9::unpack(wrong::unpack_bytes), Some("did you mask off the others?")),
    (
        "unpack_in_order's story",
        || step9::awq_tells_the_demo_story(my_pack, wrong::unpack_in_order),
        Some("the demo story by the numbers that your unpack has read"),
    ),
    ("no_one", || step9::column(wrong::no_one), Some("did you forget the 1 that is added")),
    ("always_one", || step9::column(wrong::always_one), Some("did you add 1 to the zero points of gptq_v2")),
    ("sixteen", || step9::column(wrong::sixteen), Some("did you make 2^bits of a stored zero point")),
    (
        "by_group_size",
        || step9::column(wrong::by_group_size),
        Some("did you take inputs for groups in order"),
    ),
    ("one_word", || step9::column(wrong::one_word), Some("did you lose the bits of a field")),
    ("no_zero", || step9::column(wrong::no_zero), Some("did you leave the zero point out")),
    (
        "no_one's story",
        || step9::gptq_tells_the_demo_story(wrong::no_one),
        Some("the demo story by your columns"),
    ),
    ("no_update", || step9::update(wrong::no_update), Some("did you leave the other weights as they were")),
    ("wrong_direction", || step9::update(wrong::wrong_direction), Some("in the wrong direction")),
    ("undivided", || step9::update(wrong::undivided), Some("did you forget to divide by U[j, j]")),
    ("divided_twice", || step9::update(wrong::divided_twice), Some("did you divide by U[j, j] twice")),
    (
        "changes_rounded",
        || step9::update(wrong::changes_rounded),
        Some("did you change what is rounded already?"),
    ),
    (
        "no_update's demo",
        || step9::quantizes_the_demo(wrong::no_update),
        Some("with your update, the products of q_proj are off by"),
    ),
    ("block_list", || step9::pickle(wrong::block_list), Some("did you list what is forbidden?")),
    ("module_only", || step9::pickle(wrong::module_only), Some("did you compare the module only?")),
    ("name_only", || step9::pickle(wrong::name_only), Some("did you compare the name only?")),
    (
        "beginning_only",
        || step9::pickle(wrong::beginning_only),
        Some("did you compare the beginning of the name only?"),
    ),
    ("refuses_the_call", || step9::pickle(wrong::refuses_the_call), Some("did you wait for the call?")),
    ("any_call", || step9::pickle(wrong::any_call), Some("did you look at the arguments of the call?")),
    ("calls_anything", || step9::pickle(wrong::calls_anything), Some("did you look at what is called?")),
    ("skips_unknown", || step9::pickle(wrong::skips_unknown), Some("did you skip an opcode")),
];

/// How many checks fail.
pub fn run() -> usize {
    rig::run(STUBS, SOLUTIONS, WRONG, include_str!("../../steps/step9-quantized/exercise.rs"))
}
