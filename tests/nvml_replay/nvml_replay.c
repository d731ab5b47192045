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
 *   NVML_REPLAY_MJ_PER_J           scale of the energy counter (1000); 1300 lies, 1 mistakes units
 *   NVML_REPLAY_COUNTER_STUCK_S    the counter stands still from this t on (never)
 *   NVML_REPLAY_NAME               product name
 *   NVML_REPLAY_FIRST_UUID         number in the UUID of the first GPU; the others' follow it (0):
 *                                  those of each node of a run differ
 *   NVML_REPLAY_PIDS               `pid,...`: processes with a compute context on every GPU, read
 *                                  anew at each question
 *   NVML_REPLAY_MIG                1: the GPUs are sliced
 *
 * Those below are read anew at each question, and may change by time: `1980,5:900` is 1980 until
 * t = 5 and 900 from then on. One that is negative is not supported.
 *
 *   NVML_REPLAY_CLOCK_MHZ          clock of the cores (1980)
 *   NVML_REPLAY_MAX_CLOCK_MHZ      its highest (1980)
 *   NVML_REPLAY_MEMORY_CLOCK_MHZ   clock of the memory, and its highest (2619)
 *   NVML_REPLAY_REASONS            bits of what holds the clocks back (4: the power limit)
 *   NVML_REPLAY_LIMIT_W            enforced power limit (700)
 *   NVML_REPLAY_DEFAULT_LIMIT_W    the default, which is also the highest (700)
 *   NVML_REPLAY_PERSISTENCE        persistence mode (1)
 *   NVML_REPLAY_ECC                1: memory errors are corrected (1)
 *   NVML_REPLAY_ECC_ERRORS         those that could not be (0)
 *   NVML_REPLAY_TEMPERATURE_C      (45)
 *   NVML_REPLAY_MEMORY_USED_GIB    of 80 (4)
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
  snprintf(text, size, "GPU-5f0c%04x-aaaa-bbbb-cccc-dddddddddddd", first_uuid + gpu);
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

int nvmlSystemGetCudaDriverVersion(int *version) {
  *version = 12050; /* CUDA 12.5 */
  return answer_of(EVERYTHING);
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

/* A query whose answer is a setting of now, times `scale`. */
#define NOW(function, type, key, fallback, scale)      \
  int function(void *handle, type *number) {           \
    ASK("slow");                                       \
    double value = setting_now(key, fallback);         \
    *number = value < 0 ? 0 : (type)(value * scale);   \
    return value < 0 ? NOT_SUPPORTED : SUCCESS;        \
  }

NOW(nvmlDeviceGetEnforcedPowerLimit, unsigned, "NVML_REPLAY_LIMIT_W", 700, 1e3)
NOW(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, "NVML_REPLAY_DEFAULT_LIMIT_W", 700, 1e3)
NOW(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "NVML_REPLAY_REASONS", 4, 1)
NOW(nvmlDeviceGetPersistenceMode, unsigned, "NVML_REPLAY_PERSISTENCE", 1, 1)

int nvmlDeviceGetPowerManagementLimitConstraints(void *handle, unsigned *least, unsigned *most) {
  *least = 200000;
  return nvmlDeviceGetPowerManagementDefaultLimit(handle, most);
}

int nvmlDeviceGetEccMode(void *handle, unsigned *current, unsigned *pending) {
  ASK("slow");
  double value = setting_now("NVML_REPLAY_ECC", 1);
  *current = *pending = value > 0;
  return value < 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetDefaultEccMode(void *handle, unsigned *mode) {
  ASK("slow");
  *mode = 1;
  return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(void *handle, unsigned kind, unsigned counter,
                                unsigned long long *number) {
  (void)counter;
  ASK("slow");
  int is_uncorrected = kind == 1;
  *number = is_uncorrected ? (unsigned long long)setting_now("NVML_REPLAY_ECC_ERRORS", 0) : 0;
  return SUCCESS;
}

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
  bytes[2] = (unsigned long long)(setting_now("NVML_REPLAY_MEMORY_USED_GIB", 4) * (1 << 30));
  bytes[1] = bytes[0] - bytes[2]; /* free */
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
  *celsius = (unsigned)setting_now("NVML_REPLAY_TEMPERATURE_C", 45);
  return SUCCESS;
}

static int clock_mhz(void *handle, unsigned type, const char *key, unsigned *megahertz) {
  ASK("slow");
  int is_memory = type == 2;
  double value = is_memory ? setting_now("NVML_REPLAY_MEMORY_CLOCK_MHZ", 2619)
                           : setting_now(key, 1980);
  *megahertz = value < 0 ? 0 : (unsigned)value;
  return value < 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetClockInfo(void *handle, unsigned type, unsigned *megahertz) {
  return clock_mhz(handle, type, "NVML_REPLAY_CLOCK_MHZ", megahertz);
}

int nvmlDeviceGetMaxClockInfo(void *handle, unsigned type, unsigned *megahertz) {
  return clock_mhz(handle, type, "NVML_REPLAY_MAX_CLOCK_MHZ", megahertz);
}

int nvmlDeviceGetApplicationsClock(void *handle, unsigned type, unsigned *megahertz) {
  return clock_mhz(handle, type, "NVML_REPLAY_MAX_CLOCK_MHZ", megahertz);
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
