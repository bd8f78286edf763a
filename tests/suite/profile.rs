//! The counters of kernels whose traffic can be worked out by hand.

use crate::common::run;
use stairwell::backend::cuda::{
    Arg, Device, Grid, KernelShape, Profile, Simulated, profile_kernel, profiled,
};

fn profile(kernel: &str, shape: &str) -> Profile {
    profile_kernel(kernel, &KernelShape::parse(kernel, shape).unwrap()).unwrap()
}

/// (sectors, bytes) of reads and of writes of global memory.
fn moved(profile: &Profile) -> [(u64, u64); 2] {
    [false, true].map(|writes| (profile.sectors(writes), profile.bytes(writes)))
}

/// Requests to global memory, over reads and writes.
fn requests(profile: &Profile) -> u64 {
    profile.sites.iter().filter(|site| !site.shared).map(|site| site.requests).sum()
}

#[test]
fn each_version_of_rms_norm_does_less() {
    let (rows, width) = (8, 1024);
    let [v0, v1, v2] = ["rms_norm_v0", "rms_norm_v1", "rms_norm_v2"].map(|kernel| profile(kernel, ""));
    let number = 4 * rows * width;
    // x for the squares, x and the weight for the product; whole warps read 32 floats in a row, 4 sectors.
    let twice = [(3 * number / 32, 3 * number), (number / 32, number)];
    assert_eq!((moved(&v0), moved(&v1)), (twice, twice));
    assert_eq!((v0.least_read, v0.least_written), (number + 4 * width, number));
    // x and the weight, 16 bytes a lane.
    assert_eq!(moved(&v2), [(2 * number / 32, 2 * number), (number / 32, number)]);
    assert_eq!((requests(&v0), requests(&v1), requests(&v2)), (1024, 1024, 192));
    // Of a block: one barrier after the numbers are there, seven while they are halved, one at the end; or one before the warps' sums are
    // read, and one after.
    assert_eq!([&v0, &v1, &v2].map(|p| p.barriers), [rows * 9, rows * 2, rows * 2]);
    assert_eq!([&v0, &v1, &v2].map(|p| p.bank_conflicts()), [0; 3]);
}

#[test]
fn a_sum_that_is_normalised_at_once_is_read_once_less() {
    let (rows, width) = (8, 1024);
    let (fused, added, normed) =
        (profile("add_rms_norm", ""), profile("add", ""), profile("rms_norm_v1", ""));
    let number = 4 * rows * width;
    // x and what is added; then x and the weight.
    assert_eq!(moved(&fused), [(4 * number / 32, 4 * number), (2 * number / 32, 2 * number)]);
    assert_eq!(added.sectors(false) + normed.sectors(false), 5 * number / 32);
    assert_eq!(added.sectors(true) + normed.sectors(true), 2 * number / 32);
}

#[test]
fn the_plain_matmul_reads_weights_across_the_grain() {
    for (kernel, bytes) in [("matmul_v0_f32", 4), ("matmul_v0_bf16", 2), ("matmul_v0_f16", 2)] {
        let (rows, inputs, outputs) = (2, 64, 256);
        let profile = profile(kernel, "rows=2,inputs=64,outputs=256");
        let warps = rows * outputs / 32;
        // At each input, the lanes of a warp read one number of x, and 32 numbers of W that are a row apart: a sector each.
        let sectors = warps * inputs * (1 + 32);
        let read = rows * outputs * inputs * (4 + bytes);
        assert_eq!(
            moved(&profile),
            [(sectors, read), (rows * outputs * 4 / 32, 4 * rows * outputs)],
            "{kernel}"
        );
        assert_eq!(profile.least_read, 4 * rows * inputs + bytes * inputs * outputs);
    }
}

/// Rows and outputs that fill tiles: each version reads x once for so many outputs, and W once for so many rows.
#[test]
fn tiles_of_the_matmul_ladder_save_reads() {
    let (rows, inputs, outputs) = (64, 128, 128);
    let read = |kernel: &str| profile(kernel, "rows=64,inputs=128,outputs=128").bytes(false);
    let [v0, v1, v2] = ["v0", "v1", "v2"].map(|version| read(&format!("matmul_{version}_bf16_bf16")));
    let both = 2 * 2 * rows * inputs * outputs; // x and W, 2 bytes, for every product
    assert_eq!(v0, both);
    assert_eq!(v1, both / 32);
    assert_eq!(v2, both / 64);
    assert_eq!(read("matmul_v3_bf16_bf16"), v2, "the same tiles");
    assert_eq!(read("matmul_v3_unswizzled_bf16_bf16"), v2);
}

/// ldmatrix reads a piece of 16 bytes of 8 rows of a tile. Unswizzled they lie in the same 4 banks: 8 turns where 1 would do.
#[test]
fn a_swizzle_takes_the_bank_conflicts_away() {
    let turns = |kernel: &str| {
        let profile = profile(kernel, "rows=64,inputs=128,outputs=64");
        let reads = profile.sites.iter().filter(|site| site.shared && !site.writes);
        let sum = reads.fold((0, 0), |(turns, least), site| (turns + site.turns, least + site.least_turns));
        (sum, profile.bank_conflicts())
    };
    let (swizzled, unswizzled) = (turns("matmul_v3_bf16_bf16"), turns("matmul_v3_unswizzled_bf16_bf16"));
    // Two tiles along k, four steps of 16 in each, four warps, four ldmatrix a step, of four phases each.
    let least = 2 * 4 * 4 * 4 * 4;
    assert_eq!(swizzled, ((least, least), 0));
    assert_eq!(unswizzled.0, (8 * least, least));
    // cp.async writes a row of pieces after the other, and meets all banks either way.
    assert_eq!(unswizzled.1, 7 * least);
}

/// What rotation and writing need together, and as three kernels.
#[test]
fn rotation_fused_with_writing_moves_less() {
    let shape = "rows=4,heads=8,kv_heads=2,head_dim=64,block_size=16";
    let [fused, write, rope] =
        ["rope_write_kv_bf16", "write_kv_bf16", "rope"].map(|kernel| profile(kernel, shape));
    let k = 4 * 4 * 2 * 64 / 32; // sectors of 4 rows of K in f32
    assert_eq!(
        fused.sectors(true),
        write.sectors(true) + rope.sectors(true) - k,
        "rotated K is not written apart"
    );
    assert!(fused.sectors(false) + k <= write.sectors(false) + rope.sectors(false), "and not read again");
    let requests =
        |profile: &Profile| profile.sites.iter().filter(|s| !s.shared).map(|s| s.requests).sum::<u64>();
    assert!(requests(&fused) < requests(&write) + requests(&rope));
}

#[test]
fn the_plain_attention_reads_k_and_v_once_for_each_query_head() {
    let (sequences, tokens, heads, kv_heads, head_dim) = (1, 128, 4, 1, 32);
    let profile = profile(
        "paged_attention_v0_f32",
        "sequences=1,tokens=128,heads=4,kv_heads=1,head_dim=32,block_size=16",
    );
    let cache = 2 * 4 * sequences * tokens * kv_heads * head_dim;
    assert!(profile.bytes(false) > 4 * cache, "four query heads share a head of K and V, and each reads it");
    let least = cache + 4 * heads * head_dim + 4 * (tokens / 16 + 2 * sequences);
    assert_eq!(profile.least_read, least, "K and V, the queries, the table, its start and the position");
    assert_eq!(profile.least_written, 4 * heads * head_dim);
}

/// Llama-3-8B's heads: a head of K and V serves four query heads.
#[test]
fn grouped_attention_reads_k_and_v_once() {
    let shape = "sequences=1,tokens=1024,heads=8,kv_heads=2,head_dim=128,block_size=16";
    let cache = 2 * 2 * 1024 * 2 * 128; // K and V, 2 bytes a number
    let read = |version: &str| {
        let profile = profile(&format!("paged_attention_{version}"), shape);
        (32 * profile.sectors(false)) as f64 / cache as f64
    };
    assert!(
        read("v0") > 4.0,
        "each of four query heads reads a head of K and V, and lanes read across the grain"
    );
    let v1 = read("v1");
    assert!((4.0..4.3).contains(&v1), "coalesced, and still once for each query head: {v1}");
    for version in ["v2", "v3", "v4"] {
        let times = read(version);
        assert!((1.0..1.05).contains(&times), "{version} reads {times} times K and V");
    }
    // In fp8 a scale for each vector, and half the bytes: of the least with queries and tables.
    let profile = profile("paged_attention_v4_fp8", shape);
    let times = (32 * profile.sectors(false)) as f64 / profile.least_read as f64;
    assert!((1.0..1.05).contains(&times), "fp8: {times} times K, V, their scales, queries and tables");
}

/// What lanes ask for, whatever the sectors: v0 and v1 read a head of K and V for each of the four query heads that share it.
#[test]
fn redundant_reads_show_in_what_lanes_ask_for() {
    let shape = "sequences=1,tokens=256,heads=32,kv_heads=8,head_dim=128,block_size=16";
    let times = |version: &str| {
        let profile = profile(&format!("paged_attention_{version}"), shape);
        profile.bytes(false) as f64 / profile.least_read as f64
    };
    assert!((3.9..4.4).contains(&times("v0")), "{}", times("v0"));
    assert!((3.9..4.7).contains(&times("v1")), "each lane asks the table, too: {}", times("v1"));
    assert!((1.0..1.2).contains(&times("v2")), "{}", times("v2"));
}

#[test]
fn lanes_that_want_one_bank_take_turns() {
    let device = Simulated::default();
    let out = device.allocate(4 * 128).unwrap();
    let grid = Grid { blocks: [1, 1, 1], threads: 128, shared_bytes: 0 };
    let profile = device.profile("planted_bank_conflict", grid, &[Arg::At(out)]).unwrap();
    let reads: Vec<(u64, u64)> =
        profile.sites.iter().filter(|s| s.shared && !s.writes).map(|s| (s.requests, s.turns)).collect();
    // Four warps read a column of each square. In the one without padding all 32 lanes take turns.
    let (requests, turns) = reads.iter().fold((0, 0), |(r, t), (requests, turns)| (r + requests, t + turns));
    assert_eq!((requests, turns), (8, 4 * 32 + 4));
    assert_eq!(profile.bank_conflicts(), 4 * 31);
}

#[test]
fn every_kernel_of_the_list_can_be_profiled_and_lines_are_known() {
    for kernel in profiled() {
        let profile = profile(kernel, "");
        assert!(profile.sectors(false) > 0 && profile.sectors(true) > 0, "{kernel}");
        let lines: Vec<_> =
            profile.sites.iter().filter_map(|site| site.file.as_ref().zip(site.line)).collect();
        assert_eq!(lines.len(), profile.sites.len(), "{kernel}: a test build has lines");
        assert!(
            lines.iter().all(|(file, _)| file.ends_with(".cu") || file.ends_with(".cuh")),
            "{kernel}: {lines:?}"
        );
    }
}

#[test]
fn the_command_prints_the_same_and_refuses_what_it_does_not_know() {
    let report = run(&["kernels", "profile", "rms_norm_v0", "--shape", "rows=2,width=64", "--json"]).json();
    assert_eq!(report["shape"], "rows=2,width=64");
    assert_eq!(report["read"]["least_bytes"], 4 * (2 * 64 + 64));
    assert_eq!(report["read"]["sectors"], 3 * 4 * 2 * 64 / 32);
    let text = run(&["kernels", "profile", "rms_norm_v0", "--shape", "rows=2,width=64"]).good();
    assert!(text.contains("rms_norm_v0, rows=2,width=64") && text.contains("norm.cu:"), "{text}");
    let refused = |args: &[&str], parts: &[&str]| {
        run(&[&["kernels", "profile"], args].concat()).refused(parts);
    };
    refused(&["nothing"], &["there is no kernel 'nothing'", "rms_norm"]);
    refused(&["rms_norm_v2", "--shape", "width=6"], &["rms_norm_v2", "a multiple of 4"]);
    refused(&["rms_norm_v0", "--shape", "rows=0"], &["'rows=0'", "rows=8,width=1024"]);
    refused(&["rms_norm_v0", "--shape", "depth=3"], &["'depth=3'"]);
    refused(&["paged_attention_v0_f32", "--shape", "heads=3,kv_heads=2"], &["heads=3", "kv_heads=2"]);
}
