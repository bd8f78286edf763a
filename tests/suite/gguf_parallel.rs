//! GGUF files on several ranks and on the device: each has its slice of the blocks.

use crate::{common::accepted, gguf::dense_and_blocks};
use std::path::Path;

#[test]
fn ranks_and_devices_give_the_ids_of_the_same_numbers() {
    for (name, ways) in [
        ("llama3", [&["--tp", "2"][..], &["--pp", "2"], &["--tp", "2", "--pp", "2"], &["--device", "sim"]]),
        ("qwen3", [&["--tp", "2"][..], &["--pp", "2"], &["--tp", "2", "--pp", "2"], &["--device", "sim"]]),
    ] {
        let (_dir, blocks, dense) = dense_and_blocks(name);
        let prompt = [5, 17, 3, 90, 41];
        let want = accepted(Path::new(&dense), &prompt, &["--dtype", "f32"]);
        assert_eq!(accepted(Path::new(&blocks), &prompt, &["--dtype", "f32"]), want, "{name}");
        for way in ways {
            let flags = [way, &["--dtype", "f32"]].concat();
            assert_eq!(accepted(Path::new(&blocks), &prompt, &flags), want, "{name} {way:?}");
        }
    }
}
