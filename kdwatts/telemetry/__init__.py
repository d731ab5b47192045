"""Power and energy of the devices of this job, in six steps. Start with `meter.Meter`.

- Devices: `discovery` says which devices can be read, by `nvml` (GPUs), by `rapl` (CPUs and their
  memory), or by a model of CPU time and TDP where RAPL is closed (`host`).
- Readings: a `probe.Probe` reads one device, and the `sampler` reads all of them at a fixed rate.
  `readings` says what a reading is and which readings are believed.
- Tallies: `integration` turns watts into joules, from one reading to the next. `energy` adds these
  steps up to what a device used since the meter started.
- Windows: `window_edges` finds the moment and the tallies at both ends of a window, and
  `energy.span` takes the difference. `recover` does the same from the trace of a killed attempt.
- Nodes: a `node_meter.NodeMeter` has the devices of one node. `meter.Meter` has the windows, over
  its own node and those that `other_nodes` asks, each of which is a `node_listener`. `node_sums`
  adds them up.
- Joules: `parts` makes one component of the devices of one kind, with its `uncertainty`, its
  quality and what is wrong with it. `kdwatts.metrics.window_energy` adds the components.

Nothing here imports torch.
"""
