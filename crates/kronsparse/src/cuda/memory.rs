//! Device memory as typed buffers. Copies wait until the GPU is idle: they are for set-up and results, not for the hot path.

use std::marker::PhantomData;

use bytemuck::Pod;
use cudarc::driver::sys;

use super::device::{Device, check};
use crate::{Error, Result};

/// `len` elements in the memory of one GPU, freed when dropped (the driver waits for work that still uses them).
#[derive(Debug)]
pub struct Buffer<T> {
    device: Device,
    /// 0 where `len` is 0.
    pointer: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Memory for `len` elements whose content is undefined. At least 256-byte aligned; `len` may be 0.
    pub fn alloc(device: &Device, len: usize) -> Result<Buffer<T>> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let Some(bytes) = bytes else {
            let what = format!("{len} elements of {} bytes", size_of::<T>());
            return Err(Error::Cuda { what, why: "exceed the address space".into() });
        };
        let mut pointer = 0;
        if bytes > 0 {
            device.bind()?;
            let what = format!("cuMemAlloc of {bytes} bytes");
            // SAFETY: the context is current and the pointer is to a live variable.
            check(&what, unsafe { sys::cuMemAlloc_v2(&raw mut pointer, bytes) })?;
        }
        Ok(Buffer { device: device.clone(), pointer, len, element: PhantomData })
    }

    /// A copy of `values` on the device.
    pub fn from_slice(device: &Device, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = Buffer::alloc(device, values.len())?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The GPU whose memory it is.
    pub fn device(&self) -> &Device {
        &self.device
    }
    /// The device address of the first element; 0 where there is none.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }
    /// The device address of element `at`. Panics beyond the end; the end itself has an address.
    pub fn pointer_at(&self, at: usize) -> u64 {
        assert!(at <= self.len, "element {at} of a buffer of {}", self.len);
        self.pointer + (at * size_of::<T>()) as u64
    }

    /// Overwrites the elements from `at` on. Waits for the GPU before and after.
    pub fn write(&mut self, at: usize, values: &[T]) -> Result<()> {
        self.check_range(at, values.len())?;
        if size_of_val(values) > 0 {
            self.device.synchronize()?;
            self.device.bind()?;
            // SAFETY: both ranges hold `values.len()` elements, and no kernel runs that could use the target.
            check("cuMemcpyHtoD", unsafe {
                sys::cuMemcpyHtoD_v2(self.pointer_at(at), values.as_ptr().cast(), size_of_val(values))
            })?;
            // The copy may still be on its way from a staging buffer when the call returns.
            self.device.synchronize()?;
        }
        Ok(())
    }

    /// Copies elements from `at` on into `values`, after waiting for the GPU.
    pub fn read(&self, at: usize, values: &mut [T]) -> Result<()> {
        self.check_range(at, values.len())?;
        if size_of_val(values) > 0 {
            self.device.synchronize()?;
            self.device.bind()?;
            // SAFETY: both ranges hold `values.len()` elements; any bytes are a valid `T`.
            check("cuMemcpyDtoH", unsafe {
                sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), self.pointer_at(at), size_of_val(values))
            })?;
        }
        Ok(())
    }

    /// All elements, after waiting for the GPU.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        self.read(0, &mut values)?;
        Ok(values)
    }

    fn check_range(&self, at: usize, len: usize) -> Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(Error::Length {
                what: "a copy between host and device (elements after the offset)",
                expected: self.len.saturating_sub(at),
                found: len,
            }),
        }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.pointer != 0 && self.device.bind().is_ok() {
            // SAFETY: the memory came from cuMemAlloc and nobody can name it any more. An error has no remedy here.
            unsafe { sys::cuMemFree_v2(self.pointer) };
        }
    }
}
