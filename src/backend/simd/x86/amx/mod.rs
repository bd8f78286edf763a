//! AMX's tile registers, in `asm!`: the intrinsics are not in stable Rust.
//!
//! A thread has eight, tmm0 to tmm7, of 16 rows of 64 bytes each. `tdpbf16ps c, a, b` adds a product of matrices: a holds 16 × 32 numbers
//! of bf16, b 32 × 16 of them, two rows of the matrix side by side in each of its rows, and c 16 × 16 sums in f32. That is 16,384 operations
//! of one instruction, in 16 cycles. (Intel's manual, volume 2, TDPBF16PS.)
//!
//! The compiler may use these registers between two `asm!` blocks, so none of ours leaves a number in them: [`multiply`] is one block. What
//! stays between two blocks is the registers' shapes, which belong to the thread and which the compiler never sets.

mod pack;
mod transpose;

pub use pack::Panels;
pub use transpose::{transpose, turned};

use super::Avx512Bf16;
use std::{arch::asm, marker::PhantomData};

/// The token: this CPU has AMX's tiles and multiplies bf16 with them, it has AVX-512-BF16, and the system allows the tiles to this process.
#[derive(Clone, Copy)]
pub struct Amx(());

impl Amx {
    /// Asks the CPU and the system: Linux gives a process the 8 KiB of tiles only when it asks (Documentation/arch/x86/xstate.rst).
    #[cfg(target_os = "linux")]
    pub fn new() -> Option<Amx> {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24; // CPUID 7, EDX
        static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        let allowed = ALLOWED.get_or_init(|| {
            let has = std::arch::x86_64::__cpuid(0).eax >= 7
                && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE
                && Avx512Bf16::new().is_some();
            // SAFETY: the call changes nothing but what this process may do, and fails where the system does not know it.
            has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) }
                == 0
        });
        allowed.then_some(Amx(()))
    }

    #[cfg(not(target_os = "linux"))]
    pub fn new() -> Option<Amx> {
        None // other systems have other ways to ask
    }
}

/// Rows of a tile, and sums or pairs of bf16 in one of its rows.
pub const SIDE: usize = 16;
/// Numbers of bf16 in a row of a tile.
pub const DEPTH: usize = 2 * SIDE;

/// A row of a tile. Aligned, it is one line of the first cache; otherwise each row costs two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

impl Line {
    pub const ZERO: Line = Line([0; 64]);

    /// The bytes of some lines.
    pub fn bytes(lines: &mut [Line]) -> &mut [u8] {
        // SAFETY: a line is 64 bytes.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), 64 * lines.len()) }
    }

    /// The sums of some lines.
    pub fn sums(lines: &[Line]) -> &[f32] {
        // SAFETY: a line is 16 numbers of f32, which any bits are.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), SIDE * lines.len()) }
    }

    /// The lines that lie in a buffer.
    pub fn within(buffer: &mut [f32]) -> &mut [Line] {
        // SAFETY: any bits are a line, and lines that were written are numbers of no meaning.
        unsafe { buffer.align_to_mut::<Line>().1 }
    }
}

/// `ldtilecfg`'s operand: rows and bytes of a row of each register.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The shapes of this thread's registers, as long as it lives: c's in 0 to 3, a's in 4 and 5, b's in 6 and 7.
pub struct Tiles {
    /// Columns of b and c.
    columns: usize,
    /// It stays on its thread.
    thread: PhantomData<*const ()>,
}

impl Tiles {
    /// For b and c with this many columns, 1 to 16.
    pub fn with_columns(_: Amx, columns: usize) -> Tiles {
        assert!((1..=SIDE).contains(&columns), "{columns} columns");
        let mut shapes =
            Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for tile in 0..8 {
            let columns = if tile == 4 || tile == 5 { SIDE } else { columns };
            (shapes.rows[tile], shapes.row_bytes[tile]) = (SIDE as u8, 4 * columns as u16);
        }
        // SAFETY: the token proves that the CPU has AMX; the operand is as the manual says, and lives until the block ends.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
        Tiles { columns, thread: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a `Tiles` was made with a token. Without this every switch of threads would save 8 KiB more.
        unsafe {
            asm!("tilerelease", options(nostack, nomem),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
    }
}

/// The operand a: 32 rows of bf16, two tiles one below the other, and how to walk along them.
#[derive(Clone, Copy)]
pub struct Walk {
    /// Where the first row begins.
    pub start: *const u8,
    /// Bytes from a row to the next.
    pub stride: usize,
    /// Bytes from a tile to the next one along k.
    pub step: usize,
}

/// Lines of memory to ask for on the way, since they will be read soon.
#[derive(Clone, Copy)]
pub struct Ahead {
    /// The first line.
    pub start: *const u8,
    /// Lines at each step, and bytes from one of them to the next.
    pub lines: usize,
    pub stride: usize,
    /// Bytes from a step's first line to the next step's.
    pub step: usize,
}

impl Ahead {
    pub const NOTHING: Ahead = Ahead { start: std::ptr::null(), lines: 0, stride: 0, step: 0 };
}

// ANCHOR: multiply
/// c += a · b over some steps of 32 numbers: two tiles of a, two panels of b, four tiles of c. Each tile that is read is multiplied twice.
/// Where there is one panel, both addresses of b are the same, and so are c's. `fresh`: c begins at zero.
///
/// A tile of b or c is 16 rows, one behind the other, of as many words as `tiles` has columns: c is `[panel][32][columns]` of f32.
///
/// # Safety
/// `tiles` must be the only one of this thread. All that is walked over must be readable, and c writable.
#[inline(always)]
pub unsafe fn multiply(
    tiles: &Tiles,
    a: Walk,
    b: [*const u8; 2],
    steps: usize,
    c: [*mut f32; 2],
    fresh: bool,
    ahead: Ahead,
) {
    assert!(steps > 0, "the loop is left after a step");
    let jump = ahead.step.wrapping_sub(ahead.lines * ahead.stride);
    // SAFETY: a `Tiles` was made with a token, so the CPU has AMX; addresses by the caller. A prefetch reads nothing, wherever it points.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "test {t}, {t}", // fresh?
            "jnz 2f",
            "mov {t}, [{c}]",
            "tileloadd tmm0, [{t} + {row}*1]",
            "lea {t}, [{t} + {row}*8]", "lea {t}, [{t} + {row}*8]", // 16 rows on
            "tileloadd tmm1, [{t} + {row}*1]",
            "mov {t}, [{c} + 8]",
            "tileloadd tmm2, [{t} + {row}*1]",
            "lea {t}, [{t} + {row}*8]", "lea {t}, [{t} + {row}*8]",
            "tileloadd tmm3, [{t} + {row}*1]",
            "2:", // each step
            "tileloadd tmm6, [{b0} + {row}*1]",
            "tileloadd tmm4, [{a} + {a_stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "lea {t}, [{a} + {a_stride}*8]", "lea {t}, [{t} + {a_stride}*8]",
            "tileloadd tmm5, [{t} + {a_stride}*1]",
            "tdpbf16ps tmm1, tmm5, tmm6",
            "cmp {b0}, {b1}",
            "je 3f", // one panel
            "tileloadd tmm7, [{b1} + {row}*1]",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "3:",
            "mov {t}, {lines}",
            "test {t}, {t}",
            "jz 5f",
            "4:", // each line to ask for
            "prefetcht1 [{next}]",
            "add {next}, {next_stride}",
            "dec {t}",
            "jnz 4b",
            "5:",
            "add {next}, {jump}",
            "add {a}, {a_step}",
            "lea {b0}, [{b0} + {row}*8]", "lea {b0}, [{b0} + {row}*8]",
            "lea {b1}, [{b1} + {row}*8]", "lea {b1}, [{b1} + {row}*8]",
            "dec {steps}",
            "jnz 2b",
            "mov {t}, [{c}]",
            "tilestored [{t} + {row}*1], tmm0",
            "lea {t}, [{t} + {row}*8]", "lea {t}, [{t} + {row}*8]",
            "tilestored [{t} + {row}*1], tmm1",
            "cmp {b0}, {b1}",
            "je 6f",
            "mov {t}, [{c} + 8]",
            "tilestored [{t} + {row}*1], tmm2",
            "lea {t}, [{t} + {row}*8]", "lea {t}, [{t} + {row}*8]",
            "tilestored [{t} + {row}*1], tmm3",
            "6:",
            a = inout(reg) a.start => _, a_stride = in(reg) a.stride, a_step = in(reg) a.step,
            b0 = inout(reg) b[0] => _, b1 = inout(reg) b[1] => _, row = in(reg) 4 * tiles.columns,
            c = in(reg) &c, steps = inout(reg) steps => _, t = inout(reg) usize::from(fresh) => _,
            next = inout(reg) ahead.start => _, lines = in(reg) ahead.lines, next_stride = in(reg) ahead.stride, jump = in(reg) jump,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
// ANCHOR_END: multiply
