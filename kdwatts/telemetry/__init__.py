"""Power and energy of the devices of this job, in five steps. `meter.Meter` is the way in.

- devices: `discovery` says which can be read, by `nvml` (GPUs), `rapl` (CPUs and their memory) or a
  model of CPU time and TDP where RAPL is closed (`host`).
- readings: a `probe.Probe` reads one device, the `sampler` all of them at a fixed rate; `readings`
  says what a reading is and what is believed of it.
- tallies: `integration` is where a watt becomes a joule, from one reading to the next; `energy`
  folds these steps into what a device used since the meter started.
- windows: `window_edges` finds the moment and the tallies at both ends of one, `energy.span` takes
  the difference, `recover` does it from the trace of a killed attempt.
- joules: `parts` makes a component of the devices of one kind, with the `uncertainty`, the quality
  and what is wrong with it. `kdwatts.metrics.window_energy` adds the components.

Nothing here imports torch.
"""
