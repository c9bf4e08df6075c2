//! `ks::Wgmma<T, N>`, printed for one type and N: the instruction has as many operands as sums, which no template can list.

/// What the instruction multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IEEE half precision, 16 terms at a time.
    F16,
    /// bfloat16, 16 terms at a time.
    Bf16,
    /// `f32` of which 10 bits after the point count, 8 terms at a time.
    Tf32,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::F16, Kind::Bf16, Kind::Tf32];

    /// The tag type of `kernels/types.cuh`.
    pub fn tag(self) -> &'static str {
        match self {
            Kind::F16 => "F16",
            Kind::Bf16 => "BF16",
            Kind::Tf32 => "TF32",
        }
    }
}

/// CUDA C++ that defines `ks::Wgmma<kind, n>::run(d, a, descriptor_b)`: `d += a · b`, 64 × `n` sums of a warpgroup, A in
/// registers, B in shared memory with its terms in order. A source includes it before the kernel; the emulator, which has a
/// template of its own, skips it. `n`: 8, 16, … 256.
///
/// # Panics
/// When the instruction has no such `n`.
pub fn wgmma_header(kind: Kind, n: u32) -> String {
    assert!(n.is_multiple_of(8) && (8..=256).contains(&n), "wgmma needs N = 8, 16, … 256, found {n}");
    let sums = n / 2;
    let list = |from: u32, count: u32| (from..from + count).map(|k| format!("%{k}")).collect::<Vec<_>>().join(",");
    let outputs = (0..sums).map(|k| format!("\"+f\"(d[{k}])")).collect::<Vec<_>>().join(", ");
    // After the descriptor: add to d, do not negate A, nor B; and for 16-bit types: do not transpose B.
    let (depth, name, flags) = match kind {
        Kind::F16 => (16, "f16", "1, 1, 1, 0"),
        Kind::Bf16 => (16, "bf16", "1, 1, 1, 0"),
        Kind::Tf32 => (8, "tf32", "1, 1, 1"),
    };
    let (tag, d, a, b) = (kind.tag(), list(0, sums), list(sums, 4), sums + 4);
    format!(
        "#include \"types.cuh\"\n\
         #ifndef KS_EMULATED\n\
         namespace ks {{\n\
         template <class T, int N> struct Wgmma;\n\
         template <> struct Wgmma<{tag}, {n}> {{\n  \
           static KS_DEVICE void run(float (&d)[{sums}], const u32 (&a)[4], u64 descriptor_b) {{\n    \
             asm volatile(\"wgmma.mma_async.sync.aligned.m64n{n}k{depth}.f32.{name}.{name} {{{d}}}, {{{a}}}, %{b}, {flags};\"\n      \
               : {outputs}\n      \
               : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(descriptor_b));\n  \
           }}\n\
         }};\n\
         }}  // namespace ks\n\
         #endif\n"
    )
}

/// CUDA C++ that defines `ks::WgmmaShared<kind, n>::run(d, descriptor_a, descriptor_b, add)`: `d = a · b`, to which the old `d` is
/// added where `add`; both operands in shared memory. As [`wgmma_header`] otherwise. 16-bit types only.
///
/// # Panics
/// When the instruction has no such `n`, and for TF32.
pub fn wgmma_shared_header(kind: Kind, n: u32) -> String {
    assert!(n.is_multiple_of(8) && (8..=256).contains(&n), "wgmma needs N = 8, 16, … 256, found {n}");
    let name = match kind {
        Kind::F16 => "f16",
        Kind::Bf16 => "bf16",
        Kind::Tf32 => panic!("A of 16-bit numbers expected, found TF32"),
    };
    let sums = n / 2;
    let list = (0..sums).map(|k| format!("%{k}")).collect::<Vec<_>>().join(",");
    let outputs = (0..sums).map(|k| format!("\"+f\"(d[{k}])")).collect::<Vec<_>>().join(", ");
    let (tag, a, b, add) = (kind.tag(), sums, sums + 1, sums + 2);
    format!(
        "#include \"types.cuh\"\n\
         #ifndef KS_EMULATED\n\
         namespace ks {{\n\
         template <class T, int N> struct WgmmaShared;\n\
         template <> struct WgmmaShared<{tag}, {n}> {{\n  \
           static KS_DEVICE void run(float (&d)[{sums}], u64 descriptor_a, u64 descriptor_b, bool add) {{\n    \
             asm volatile(\"{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{add}, 0;\\n\"\n      \
               \"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{name}.{name} {{{list}}}, %{a}, %{b}, add, 1, 1, 0, 0;\\n}}\"\n      \
               : {outputs}\n      \
               : \"l\"(descriptor_a), \"l\"(descriptor_b), \"r\"(static_cast<u32>(add)));\n  \
           }}\n\
         }};\n\
         }}  // namespace ks\n\
         #endif\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operands_are_numbered_in_order() {
        let text = wgmma_header(Kind::Tf32, 8);
        let line = "wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1;";
        assert!(text.contains(line), "{text}");
        let text = wgmma_header(Kind::Bf16, 256);
        assert!(
            text.contains("m64n256k16.f32.bf16.bf16 {%0,")
                && text.contains(",%127}, {%128,%129,%130,%131}, %132, 1, 1, 1, 0;")
        );
        assert!(text.contains("\"+f\"(d[127])") && !text.contains("d[128]"));
    }

    #[test]
    fn both_operands_may_stand_in_shared_memory() {
        let text = wgmma_shared_header(Kind::F16, 8);
        assert!(text.contains("setp.ne.b32 add, %6, 0;"), "{text}");
        assert!(text.contains("m64n8k16.f32.f16.f16 {%0,%1,%2,%3}, %4, %5, add, 1, 1, 0, 0;"), "{text}");
    }

    #[test]
    #[should_panic(expected = "found 12")]
    fn other_sizes_are_refused() {
        wgmma_header(Kind::F16, 12);
    }
}
