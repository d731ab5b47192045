/* A stand-in for libnvidia-ml.so.1 that replays a power trace to the genuine Python bindings.
 *
 * Build: gcc -O2 -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o DIR/libnvidia-ml.so.1 FILE.c -lm
 * Use:   LD_LIBRARY_PATH=DIR python ...
 *
 * Power is constant between the times of the trace, so its integral is known in closed form.
 * Settings are environment variables:
 *
 *   NVML_REPLAY_TRACE              file of `t_s w_gpu0 w_gpu1 ...`; without it one GPU at 100 W
 *   NVML_REPLAY_LIVE               1: the trace may grow. Whole lines that are appended count from the
 *                                  next query on; a line takes back those of its time and later
 *   NVML_REPLAY_START_S            CLOCK_MONOTONIC seconds of t = 0; default: the first nvmlInit
 *   NVML_REPLAY_POWER_PERIOD_MS    the power sensor is refreshed this often (100)
 *   NVML_REPLAY_POWER_WINDOW_MS    and averages this long (25)
 *   NVML_REPLAY_COUNTER_PERIOD_MS  the energy counter is updated this often (20)
 *   NVML_REPLAY_COUNTER_PHASE_MS   of each GPU this much later than of the one before it (0)
 *   NVML_REPLAY_COUNTER_MJ         its value at t = 0 (123456789)
 *   NVML_REPLAY_RESET_S            it falls to 0 at this t (never)
 *   NVML_REPLAY_LATENCY_US         every query sleeps this long (0)
 *   NVML_REPLAY_FAULTS             `from:to:gpu:code,...`: that GPU answers with the code; -1: all
 *                                  GPUs, nvmlInit and the queries of the node do
 *   NVML_REPLAY_RELOAD             `from:to:code`: the driver is away; what was initialised before
 *                                  answers with the code for good, the counter restarts at 0 at `to`
 *   NVML_REPLAY_UNSUPPORTED        of `energy,power,fields,slow`, the kinds that the GPU lacks
 *   NVML_REPLAY_MW_PER_W           scale of the power sensor (1000); 1 mistakes units
 *   NVML_REPLAY_NAME               product name
 *   NVML_REPLAY_PIDS               `pid,...`: processes with a compute context on every GPU, read
 *                                  anew at each question
 *   NVML_REPLAY_MIG                1: the GPUs are sliced
 */
#define _GNU_SOURCE
#include <unistd.h>

#include "trace.h"

/* nvmlReturn_t */
enum {
  SUCCESS,
  UNINITIALIZED,
  INVALID_ARGUMENT,
  NOT_SUPPORTED,
  NOT_FOUND = 6,
  INSUFFICIENT_SIZE = 7,
  DRIVER_NOT_LOADED = 9,
};

static double init_s; /* when the library was last initialised from nothing */
static int num_inits;
static intptr_t generation; /* of handles: those given before are stale */

/* What is wrong now with a GPU, or with EVERYTHING. */
static int fault_of(int gpu) {
  double now_s = trace_time_s();
  for (int i = 0; i < num_faults; i++) {
    Fault *fault = &faults[i];
    if (now_s >= fault->from_s && now_s < fault->to_s &&
        (fault->gpu == EVERYTHING || fault->gpu == gpu))
      return fault->code;
  }
  return SUCCESS;
}

/* Whether the library answers now for a GPU, or at all. */
static int answer_of(int gpu) {
  if (!num_inits) return UNINITIALIZED;
  if (init_s < reload.from_s && trace_time_s() >= reload.from_s) return reload.code;
  return fault_of(gpu);
}

/* Which GPU a handle means, and whether it answers this kind of query now. */
static int ask(void *handle, const char *kind, int *gpu) {
  if (latency_us) usleep(latency_us);
  *gpu = (int)((intptr_t)handle % (MAX_GPUS + 1)) - 1;
  int answer = answer_of(*gpu);
  if (answer != SUCCESS) return answer;
  if (*gpu < 0 || *gpu >= num_gpus || (intptr_t)handle / (MAX_GPUS + 1) != generation)
    return INVALID_ARGUMENT;
  return *kind && strstr(unsupported, kind) ? NOT_SUPPORTED : SUCCESS;
}

static int give_handle(int gpu, void **handle) {
  int answer = answer_of(gpu);
  *handle = (void *)(generation * (MAX_GPUS + 1) + gpu + 1);
  return answer;
}

#define ASK(kind)                        \
  int gpu;                               \
  int answer = ask(handle, kind, &gpu);  \
  if (answer != SUCCESS) return answer

static void write_uuid(int gpu, char *text, unsigned size) {
  snprintf(text, size, "GPU-5f0c%04x-aaaa-bbbb-cccc-dddddddddddd", gpu);
}

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  if (!points) read_settings();
  if (num_inits) {
    num_inits++; /* of another user in this process: nothing is asked of the driver */
    return SUCCESS;
  }
  double now_s = trace_time_s();
  if (now_s >= reload.from_s && now_s < reload.to_s) return DRIVER_NOT_LOADED;
  int answer = fault_of(EVERYTHING);
  if (answer != SUCCESS) return answer;
  num_inits = 1;
  init_s = now_s;
  generation++;
  return SUCCESS;
}

int nvmlShutdown(void) {
  if (!num_inits) return UNINITIALIZED;
  num_inits--;
  return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  int answer = answer_of(EVERYTHING);
  snprintf(text, size, "555.00.replay");
  return answer;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = num_gpus;
  return answer_of(EVERYTHING);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  return (int)index < num_gpus ? give_handle((int)index, handle) : INVALID_ARGUMENT;
}

/* Slices are named after their GPU: MIG-GPU-5f0c0000-... */
int nvmlDeviceGetHandleByUUID(const char *wanted, void **handle) {
  for (int gpu = 0; gpu < num_gpus; gpu++) {
    char uuid[96];
    write_uuid(gpu, uuid, sizeof uuid);
    if (!strcmp(uuid, wanted) || !strcmp(uuid, wanted + 4)) return give_handle(gpu, handle);
  }
  return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *slice, void **handle) {
  *handle = slice;
  return SUCCESS;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
  ASK("");
  write_uuid(gpu, text, size);
  return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
  ASK("");
  snprintf(text, size, "%s", name);
  return SUCCESS;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
  ASK("");
  *current = *pending = is_sliced;
  return SUCCESS;
}

/* A query with one number for an answer. */
#define QUERY(function, kind, type, value)     \
  int function(void *handle, type *number) {   \
    ASK(kind);                                 \
    *number = value;                           \
    return SUCCESS;                            \
  }

QUERY(nvmlDeviceGetPowerUsage, "power", unsigned, power_mw(gpu, power_window_s))
QUERY(nvmlDeviceGetTotalEnergyConsumption, "energy", unsigned long long, counter_mj(gpu))
QUERY(nvmlDeviceGetEnforcedPowerLimit, "slow", unsigned, 700000)
/* 4 is the software power cap. */
QUERY(nvmlDeviceGetCurrentClocksEventReasons, "slow", unsigned long long, 4)

typedef struct {
  unsigned field, scope;
  int64_t time_us, latency_us;
  unsigned type;
  int answer;
  union {
    unsigned number;
    unsigned long long large;
  } value;
} FieldValue;

int nvmlDeviceGetFieldValues(void *handle, int count, FieldValue *values) {
  ASK("fields");
  for (int i = 0; i < count; i++) {
    FieldValue *value = &values[i];
    value->answer = SUCCESS;
    value->value.large = 0;
    switch (value->field) {
      case 83: /* total energy, unsigned long long */
        value->type = 3;
        value->answer = strstr(unsupported, "energy") ? NOT_SUPPORTED : SUCCESS;
        value->value.large = counter_mj(gpu);
        break;
      case 185: /* average power, unsigned int */
        value->type = 1;
        value->value.number = power_mw(gpu, 1.0);
        break;
      case 186: /* instant power, unsigned int */
        value->type = 1;
        value->value.number = power_mw(gpu, power_window_s);
        break;
      default:
        value->answer = NOT_SUPPORTED;
    }
  }
  return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long bytes[3]) {
  ASK("slow");
  bytes[0] = 80ULL << 30; /* total */
  bytes[1] = 76ULL << 30; /* free */
  bytes[2] = 4ULL << 30;  /* used */
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned rates[2]) {
  ASK("slow");
  rates[0] = 93; /* cores */
  rates[1] = 10; /* memory */
  return SUCCESS;
}

int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *celsius) {
  (void)sensor;
  ASK("slow");
  *celsius = 45;
  return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *handle, unsigned type, unsigned *megahertz) {
  (void)type;
  ASK("slow");
  *megahertz = 1980;
  return SUCCESS;
}

typedef struct {
  unsigned pid;
  unsigned long long memory;
  unsigned gpu_instance, compute_instance;
} Process;

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *processes) {
  ASK("");
  unsigned room = *count;
  read_pids();
  *count = num_pids;
  if (room < num_pids) return INSUFFICIENT_SIZE;
  for (unsigned i = 0; i < num_pids; i++) processes[i] = (Process){.pid = pids[i]};
  return SUCCESS;
}
