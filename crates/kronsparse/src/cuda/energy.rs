//! Energy, power, clocks and temperature of a GPU, asked of the driver's management library (NVML) at run time.
//!
//! The energy of one call is far below what the counter resolves (it steps every few dozen milliseconds), so calls are
//! repeated until the counter has stepped many times: energy and calls are both taken between two steps of the counter.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use cudarc::driver::sys;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;

use super::device::{Device, check};
use super::stream::{Event, Stream};
use crate::{Error, Result};

#[cfg(target_os = "windows")]
const LIBRARY: &str = "nvml.dll";
/// Only the driver's own name of the file: the one without a version is there where developer packages are.
#[cfg(not(target_os = "windows"))]
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Seconds that a GPU may take to reach its steady power before energy is counted.
const SETTLE: f64 = 0.15;

/// Seconds of work that are given to the GPU at once.
const CHUNK: f64 = 5e-3;

/// The longest time that the counter is waited for to step, in seconds.
const PATIENCE: f64 = 2.0;

/// The sensors of one GPU.
#[derive(Debug)]
pub struct Meter {
    nvml: Nvml,
    device: Device,
    /// How NVML names the GPU: `0000:3B:00.0`.
    bus: String,
}

/// What the sensors say at one moment. `None` where this GPU does not have a sensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// Watts, averaged by the driver over about a second on recent GPUs.
    pub watts: Option<f64>,
    /// Clock of the multiprocessors.
    pub sm_mhz: Option<u32>,
    /// Clock of the memory.
    pub memory_mhz: Option<u32>,
    /// Temperature of the chip in degrees Celsius.
    pub celsius: Option<u32>,
}

/// The energy of repeated calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Energy {
    /// Joules of one call, idle power included.
    pub joules: f64,
    /// Seconds of one call, repeated without pause: caches are as warm as the call before leaves them.
    pub seconds: f64,
    /// Calls that were counted.
    pub calls: usize,
    /// Median clock of the multiprocessors meanwhile.
    pub sm_mhz: Option<u32>,
}

impl Meter {
    /// The sensors of this GPU. [`Error::Cuda`] says what is missing.
    pub fn new(device: &Device) -> Result<Meter> {
        let nvml = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init().map_err(|e| failed(LIBRARY, &e))?;
        let mut text = [0u8; 32];
        device.bind()?;
        // SAFETY: the buffer has the length that the call is told.
        check("cuDeviceGetPCIBusId", unsafe {
            sys::cuDeviceGetPCIBusId(text.as_mut_ptr().cast(), text.len() as i32, device.context().cu_device())
        })?;
        let length = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        let bus = String::from_utf8_lossy(&text[..length]).into_owned();
        nvml.device_by_pci_bus_id(bus.as_str()).map_err(|e| failed("nvmlDeviceGetHandleByPciBusId", &e))?;
        Ok(Meter { nvml, device: device.clone(), bus })
    }

    fn gpu(&self) -> Result<nvml_wrapper::Device<'_>> {
        self.nvml.device_by_pci_bus_id(self.bus.as_str()).map_err(|e| failed("nvmlDeviceGetHandleByPciBusId", &e))
    }

    /// The driver's version, such as `580.65.06`.
    pub fn driver(&self) -> Result<String> {
        self.nvml.sys_driver_version().map_err(|e| failed("nvmlSystemGetDriverVersion", &e))
    }

    /// Joules since the driver was loaded. [`Error::Unsupported`] where the GPU does not count (before Volta).
    pub fn joules(&self) -> Result<f64> {
        match self.gpu()?.total_energy_consumption() {
            Ok(millijoules) => Ok(millijoules as f64 * 1e-3),
            Err(NvmlError::NotSupported) => Err(Error::Unsupported {
                what: format!("the energy of {}", self.device.name()),
                why: "this GPU, or the virtual machine that has it, does not count energy".into(),
            }),
            Err(error) => Err(failed("nvmlDeviceGetTotalEnergyConsumption", &error)),
        }
    }

    /// What the sensors say now.
    pub fn state(&self) -> Result<State> {
        let gpu = self.gpu()?;
        Ok(State {
            watts: gpu.power_usage().ok().map(|milliwatts| f64::from(milliwatts) * 1e-3),
            sm_mhz: gpu.clock_info(Clock::SM).ok(),
            memory_mhz: gpu.clock_info(Clock::Memory).ok(),
            celsius: gpu.temperature(TemperatureSensor::Gpu).ok(),
        })
    }

    /// Mean power of the GPU while this process gives it nothing to do, over `seconds` after a pause of the same length. The
    /// context stays open, so the clocks may be those of a GPU at work.
    pub fn idle_watts(&self, seconds: f64) -> Result<f64> {
        self.device.synchronize()?;
        let wait = Duration::from_secs_f64(seconds.clamp(0.0, 60.0));
        std::thread::sleep(wait);
        let mut counter = Counter::start(self)?;
        let begin = counter.next_step()?;
        std::thread::sleep(wait);
        let end = counter.next_step()?;
        Ok((end.joules - begin.joules) / (end.at - begin.at).as_secs_f64())
    }

    /// The energy of one call of `run`, which queues `calls` calls on `stream` (several where one is too short to keep the GPU
    /// busy, as a graph). Repeats it for at least `seconds` after the power has settled.
    pub fn energy_of(
        &self,
        stream: &Stream,
        calls: usize,
        seconds: f64,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<Energy> {
        let calls = calls.max(1);
        // How many runs make a chunk.
        let (start, end) = (Event::new(&self.device)?, Event::new(&self.device)?);
        run()?;
        start.record(stream)?;
        run()?;
        end.record(stream)?;
        let runs = (CHUNK / end.seconds_since(&start)?.max(1e-7)).ceil().clamp(1.0, 10_000.0) as usize;

        let marks = [start, end];
        let mut chunks = 0usize;
        let mut clocks = Vec::new();
        // One chunk is always queued behind the one that is waited for.
        let mut chunk = |chunks: &mut usize| -> Result<()> {
            for _ in 0..runs {
                run()?;
            }
            marks[*chunks % 2].record(stream)?;
            *chunks += 1;
            if *chunks >= 2 { marks[*chunks % 2].synchronize() } else { Ok(()) }
        };
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < SETTLE {
            chunk(&mut chunks)?;
        }
        let mut counter = Counter::start(self)?;
        let (mut first, mut last): (Option<Seen>, Option<Seen>) = (None, None);
        let waiting = Instant::now();
        loop {
            chunk(&mut chunks)?;
            // What is finished: all but the chunk that was just queued.
            let finished = chunks - 1;
            if let Some(step) = counter.poll()? {
                match first {
                    None => first = Some((step, finished)),
                    Some(_) => last = Some((step, finished)),
                }
                clocks.extend(self.state()?.sm_mhz);
            }
            let enough = match (&first, &last) {
                (Some((begin, _)), Some((end, _))) => (end.at - begin.at).as_secs_f64() >= seconds,
                _ => false,
            };
            if enough {
                break;
            }
            if waiting.elapsed().as_secs_f64() > seconds + PATIENCE && last.is_none() {
                return Err(Error::Cuda {
                    what: "the energy counter".into(),
                    why: format!("did not step in {:.1} seconds", waiting.elapsed().as_secs_f64()),
                });
            }
        }
        stream.synchronize()?;
        let (Some((begin, from)), Some((end, to))) = (first, last) else {
            return Err(Error::Cuda { what: "the energy counter".into(), why: "did not step twice".into() });
        };
        let counted = (to - from) * runs * calls;
        clocks.sort_unstable();
        Ok(Energy {
            joules: (end.joules - begin.joules) / counted as f64,
            seconds: (end.at - begin.at).as_secs_f64() / counted as f64,
            calls: counted,
            sm_mhz: clocks.get(clocks.len() / 2).copied(),
        })
    }
}

/// A step of the energy counter.
#[derive(Clone, Copy)]
struct Step {
    joules: f64,
    at: Instant,
}

/// A step, and the chunks that were finished by then.
type Seen = (Step, usize);

/// Notices when the energy counter steps.
struct Counter<'a> {
    meter: &'a Meter,
    last: f64,
}

impl Counter<'_> {
    fn start(meter: &Meter) -> Result<Counter<'_>> {
        Ok(Counter { meter, last: meter.joules()? })
    }
    /// The step that the counter has made since the last question, if any.
    fn poll(&mut self) -> Result<Option<Step>> {
        let joules = self.meter.joules()?;
        let stepped = joules != self.last;
        self.last = joules;
        Ok(stepped.then(|| Step { joules, at: Instant::now() }))
    }
    /// Waits for the next step.
    fn next_step(&mut self) -> Result<Step> {
        let begun = Instant::now();
        loop {
            if let Some(step) = self.poll()? {
                return Ok(step);
            }
            if begun.elapsed().as_secs_f64() > PATIENCE {
                let why = format!("did not step in {PATIENCE} seconds");
                return Err(Error::Cuda { what: "the energy counter".into(), why });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn failed(call: &str, error: &NvmlError) -> Error {
    Error::Cuda { what: call.into(), why: error.to_string() }
}
