//! Step 4: every instruction set that this CPU has runs the whole model, as `STAIRWELL_ISA` and `Cpu::with_isa` choose it.

use crate::common::{Reference, TOLERANCE, distance, fixture, greedy, load_on, logits};
use stairwell::backend::cpu::{Cpu, Isa};

#[test]
fn every_instruction_set_gives_the_ids() {
    assert!(Isa::supported().contains(&Isa::Portable));
    for isa in Isa::supported() {
        for name in ["qwen3", "qwen2-bf16", "llama3-bf16", "mistral-f16", "gpt2-hub"] {
            let reference = Reference::of(name);
            let mut runner = load_on(Cpu::with_isa(isa), fixture(name));
            let error = distance(&logits(&mut runner, &reference.prompt), &reference.logits);
            assert!(error <= TOLERANCE, "{name} on {isa:?}: {error:.1e}");
            assert_eq!(greedy(&mut runner, &reference.prompt, 16), reference.greedy, "{name} on {isa:?}");
        }
    }
}
