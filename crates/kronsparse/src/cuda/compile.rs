//! Stage 4, MODULE: NVRTC turns a source and the embedded headers into a cubin and a report. Needs no GPU and no driver.

use std::ffi::{CStr, CString, c_char};
use std::fmt;

use cudarc::nvrtc::sys;

use super::libraries::{self, Library};
use super::source::HEADERS;
use crate::{Error, Result};

/// What the assembler said of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread writes to memory because its registers do not suffice: spilled variables.
    pub spill_store_bytes: u32,
    /// Bytes that it reads back.
    pub spill_load_bytes: u32,
    /// Bytes of a thread's stack frame: arrays that could not be kept in registers.
    pub stack_bytes: u32,
    /// Bytes of static shared memory; what a kernel asks for at launch does not count.
    pub static_shared_bytes: u32,
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resources { registers, spill_store_bytes, spill_load_bytes, stack_bytes, static_shared_bytes } = self;
        write!(
            f,
            "{registers} registers, {spill_store_bytes} + {spill_load_bytes} bytes spilled, {stack_bytes} bytes of stack, \
             {static_shared_bytes} bytes of static shared memory"
        )
    }
}

/// Machine code for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cubin {
    /// An ELF file that the driver loads.
    pub bytes: Vec<u8>,
    /// All that the compiler said.
    pub log: String,
}

impl Cubin {
    /// The registers and memory that the log reports; zeros where it reports none.
    pub fn resources(&self) -> Resources {
        // The number before the first `after` that follows `before` and the number: other lines speak of registers too.
        let number = |before: &str, after: &str| {
            self.log.match_indices(after).find_map(|(at, _)| {
                let text = self.log[..at].trim_end();
                let digits = text.len() - text.bytes().rev().take_while(u8::is_ascii_digit).count();
                (before.is_empty() || text[..digits].ends_with(before)).then(|| text[digits..].parse().ok())?
            })
        };
        Resources {
            registers: number("Used ", " registers").unwrap_or(0),
            spill_store_bytes: number("", " bytes spill stores").unwrap_or(0),
            spill_load_bytes: number("", " bytes spill loads").unwrap_or(0),
            stack_bytes: number("", " bytes stack frame").unwrap_or(0),
            static_shared_bytes: number("", " bytes smem").unwrap_or(0),
        }
    }
}

/// The architecture for a compute capability, with every instruction that exactly this chip has: `sm_80`, `sm_90a`.
pub fn architecture(capability: (u32, u32)) -> String {
    let (major, minor) = capability;
    format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" })
}

/// The compiler's options for an architecture such as `sm_90a`.
pub fn options(architecture: &str) -> Vec<String> {
    vec![
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".into(),
        "--ptxas-options=-v".into(),
        "-default-device".into(),
    ]
}

/// The version of the NVRTC that is found on this machine, major and minor.
pub fn version() -> Result<(i32, i32)> {
    libraries::require(Library::Nvrtc)?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is present, and both pointers are to live integers.
    check("nvrtcVersion", unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) })?;
    Ok((major, minor))
}

/// Compiles `source`, which may include the embedded headers by name, for an architecture such as `sm_80` or `sm_90a`.
///
/// Errors: NVRTC is not on this machine ([`Error::Cuda`]), or refuses the source ([`Error::Compile`] with its log).
pub fn compile(source: &str, architecture: &str) -> Result<Cubin> {
    compile_with(source, HEADERS, &options(architecture))
}

pub(super) fn compile_with(source: &str, headers: &[(&str, &str)], options: &[String]) -> Result<Cubin> {
    libraries::require(Library::Nvrtc)?;
    let text = |text: &str| {
        CString::new(text)
            .map_err(|_| Error::Cuda { what: "a kernel's source".into(), why: "holds a zero byte".into() })
    };
    let code = text(source)?;
    let contents = headers.iter().map(|(_, content)| text(content)).collect::<Result<Vec<_>>>()?;
    let names = headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>>>()?;
    let flags = options.iter().map(|option| text(option)).collect::<Result<Vec<_>>>()?;
    let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
    let (contents_at, names_at, flags_at) = (pointers(&contents), pointers(&names), pointers(&flags));

    let mut program = Program(std::ptr::null_mut());
    // SAFETY: all strings end with a zero byte and outlive the call, which copies them; both arrays have the length told.
    check("nvrtcCreateProgram", unsafe {
        sys::nvrtcCreateProgram(
            &raw mut program.0,
            code.as_ptr(),
            c"kronsparse.cu".as_ptr(),
            headers.len() as i32,
            contents_at.as_ptr(),
            names_at.as_ptr(),
        )
    })?;
    // SAFETY: the program was created above; the options outlive the call and are as many as told.
    let compiled = unsafe { sys::nvrtcCompileProgram(program.0, flags_at.len() as i32, flags_at.as_ptr()) };
    let log = program.log()?;
    match compiled {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(Cubin { bytes: program.cubin()?, log }),
        sys::nvrtcResult::NVRTC_ERROR_COMPILATION => {
            Err(Error::Compile { options: options.to_vec(), log, code: source.into() })
        }
        other => {
            let log = if log.is_empty() { message(other) } else { format!("{}; {log}", message(other)) };
            Err(Error::Compile { options: options.to_vec(), log, code: source.into() })
        }
    }
}

/// An NVRTC program, destroyed when it is dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> Result<String> {
        let mut size = 0;
        // SAFETY: the program is alive and the pointer is to a live integer.
        check("nvrtcGetProgramLogSize", unsafe { sys::nvrtcGetProgramLogSize(self.0, &raw mut size) })?;
        let mut bytes = vec![0u8; size.max(1)];
        // SAFETY: the buffer has the size that was just reported.
        check("nvrtcGetProgramLog", unsafe { sys::nvrtcGetProgramLog(self.0, bytes.as_mut_ptr().cast()) })?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).trim().to_owned())
    }

    fn cubin(&self) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: as in `log`.
        check("nvrtcGetCUBINSize", unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that was just reported.
        check("nvrtcGetCUBIN", unsafe { sys::nvrtcGetCUBIN(self.0, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the program was created and is not used after this. A failure leaves nothing to be done.
            unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
        }
    }
}

fn check(call: &str, code: sys::nvrtcResult) -> Result<()> {
    match code {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(Error::Cuda { what: call.into(), why: message(other) }),
    }
}

fn message(code: sys::nvrtcResult) -> String {
    // SAFETY: NVRTC is present, since it returned the code; the text is static and ends with a zero byte.
    let text = unsafe { CStr::from_ptr(sys::nvrtcGetErrorString(code)) };
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read_from_the_log() {
        let log = "ptxas info    : (C7517) warpgroup.wait is injected to allow use of registers in function 'kronsparse'\n\
                   ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function 'kronsparse' for 'sm_90a'\n\
                   ptxas info    : Function properties for kronsparse\nptxas         .     16 bytes stack frame, 24 bytes spill \
                   stores, 32 bytes spill loads\nptxas info    : Used 168 registers, used 1 barriers, 1024 bytes smem, 40 bytes cmem[0]";
        let resources = Cubin { bytes: Vec::new(), log: log.into() }.resources();
        let expected = Resources {
            registers: 168,
            spill_store_bytes: 24,
            spill_load_bytes: 32,
            stack_bytes: 16,
            static_shared_bytes: 1024,
        };
        assert_eq!(resources, expected);
        assert_eq!(Cubin { bytes: Vec::new(), log: String::new() }.resources(), Resources::default());
    }

    #[test]
    fn architectures_are_exact() {
        assert_eq!([(8, 0), (8, 9), (9, 0), (12, 0)].map(architecture), ["sm_80", "sm_89", "sm_90a", "sm_120a"]);
    }
}
