/* A stand-in for libnvidia-ml.so.1 that replays a power trace to the genuine Python bindings.
 *
 * Build: gcc -O2 -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o DIR/libnvidia-ml.so.1 FILE.c -lm
 * Use:   LD_LIBRARY_PATH=DIR python ...
 *
 * Power is constant between the times of the trace, so its integral is known in closed form.
 * Settings are environment variables:
 *
 *   NVML_REPLAY_TRACE              file of `t_s w_gpu0 w_gpu1 ...`; without it one GPU at 100 W
 *   NVML_REPLAY_START_S            CLOCK_MONOTONIC seconds of t = 0; default: the first nvmlInit
 *   NVML_REPLAY_POWER_PERIOD_MS    the power sensor is refreshed this often (100)
 *   NVML_REPLAY_POWER_WINDOW_MS    and averages this long (25)
 *   NVML_REPLAY_COUNTER_PERIOD_MS  the energy counter is updated this often (20)
 *   NVML_REPLAY_COUNTER_MJ         its value at t = 0 (123456789)
 *   NVML_REPLAY_RESET_S            it falls to 0 at this t (never)
 *   NVML_REPLAY_LATENCY_US         every query sleeps this long (0)
 *   NVML_REPLAY_FAULTS             `from:to:gpu:code,...`: that GPU (-1: all) answers with the code
 *   NVML_REPLAY_UNSUPPORTED        of `energy,power,fields,slow`, the kinds that the card lacks
 *   NVML_REPLAY_MW_PER_W           scale of the power sensor (1000); 1 mistakes units
 *   NVML_REPLAY_NAME               product name
 *   NVML_REPLAY_PIDS               `pid,...`: processes with a compute context on every GPU
 *   NVML_REPLAY_MIG                1: the cards are sliced
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_GPUS = 16, MAX_FAULTS = 64, MAX_PIDS = 64 };

/* nvmlReturn_t */
enum { SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 6, INSUFFICIENT_SIZE };

typedef struct {
  double time_s, power_w[MAX_GPUS];
  double energy_j[MAX_GPUS]; /* from the start of the trace to time_s */
} Point;

typedef struct { double from_s, to_s; int gpu, code; } Fault;

static Point *points;
static int num_points, num_gpus = 1;
static Fault faults[MAX_FAULTS];
static int num_faults;
static unsigned pids[MAX_PIDS];
static unsigned num_pids;
static double start_s = -1, power_period_s, power_window_s, counter_period_s, reset_s, mw_per_w;
static unsigned long long counter_start_mj;
static int latency_us, num_inits, is_sliced;
static const char *unsupported = "", *name = "NVIDIA H100 80GB HBM3";

static double setting(const char *key, double fallback) {
  const char *text = getenv(key);
  return text && *text ? atof(text) : fallback;
}

static double monotonic_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

static double trace_time_s(void) { return monotonic_s() - start_s; }

static void read_trace(const char *path) {
  points = calloc(1, sizeof *points);
  num_points = 1;
  points[0].power_w[0] = 100;
  FILE *file = path ? fopen(path, "r") : NULL;
  if (!file) return;
  char line[4096];
  num_points = 0;
  while (fgets(line, sizeof line, file)) {
    if (*line == '#' || *line == '\n') continue;
    points = realloc(points, (num_points + 1) * sizeof *points);
    Point *point = &points[num_points++];
    memset(point, 0, sizeof *point);
    char *rest = line;
    point->time_s = strtod(line, &rest);
    for (int gpu = 0; gpu < MAX_GPUS; gpu++) {
      char *end;
      double power_w = strtod(rest, &end);
      if (end == rest) break;
      point->power_w[gpu] = power_w;
      rest = end;
      if (gpu + 1 > num_gpus) num_gpus = gpu + 1;
    }
  }
  fclose(file);
  for (int i = 1; i < num_points; i++)
    for (int gpu = 0; gpu < num_gpus; gpu++)
      points[i].energy_j[gpu] =
          points[i - 1].energy_j[gpu] +
          points[i - 1].power_w[gpu] * (points[i].time_s - points[i - 1].time_s);
}

static const char *first_item(const char *key) {
  const char *text = getenv(key);
  return text && *text ? text : NULL;
}

static const char *next_item(const char *text) {
  const char *comma = strchr(text, ',');
  return comma ? comma + 1 : NULL;
}

static void read_settings(void) {
  power_period_s = setting("NVML_REPLAY_POWER_PERIOD_MS", 100) / 1e3;
  power_window_s = setting("NVML_REPLAY_POWER_WINDOW_MS", 25) / 1e3;
  counter_period_s = setting("NVML_REPLAY_COUNTER_PERIOD_MS", 20) / 1e3;
  counter_start_mj = (unsigned long long)setting("NVML_REPLAY_COUNTER_MJ", 123456789);
  reset_s = setting("NVML_REPLAY_RESET_S", INFINITY);
  latency_us = (int)setting("NVML_REPLAY_LATENCY_US", 0);
  mw_per_w = setting("NVML_REPLAY_MW_PER_W", 1000);
  is_sliced = (int)setting("NVML_REPLAY_MIG", 0);
  start_s = setting("NVML_REPLAY_START_S", monotonic_s());
  if (getenv("NVML_REPLAY_UNSUPPORTED")) unsupported = getenv("NVML_REPLAY_UNSUPPORTED");
  if (getenv("NVML_REPLAY_NAME")) name = getenv("NVML_REPLAY_NAME");
  for (const char *text = first_item("NVML_REPLAY_FAULTS"); text; text = next_item(text)) {
    Fault *fault = &faults[num_faults];
    if (num_faults < MAX_FAULTS && sscanf(text, "%lf:%lf:%d:%d", &fault->from_s, &fault->to_s,
                                          &fault->gpu, &fault->code) == 4)
      num_faults++;
  }
  for (const char *text = first_item("NVML_REPLAY_PIDS"); text; text = next_item(text))
    if (num_pids < MAX_PIDS) pids[num_pids++] = (unsigned)atoi(text);
  read_trace(getenv("NVML_REPLAY_TRACE"));
}

/* Joules from t = 0 to t. */
static double energy_until_j(int gpu, double time_s) {
  if (time_s <= points[0].time_s) return 0;
  int low = 0, high = num_points - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (points[middle].time_s <= time_s) low = middle;
    else high = middle - 1;
  }
  return points[low].energy_j[gpu] + points[low].power_w[gpu] * (time_s - points[low].time_s);
}

static double last_update_s(double period_s) {
  double now_s = trace_time_s();
  return period_s > 0 ? floor(now_s / period_s) * period_s : now_s;
}

static unsigned power_mw(int gpu, double window_s) {
  double to_s = last_update_s(power_period_s), from_s = to_s - window_s;
  if (from_s < 0) from_s = 0;
  if (to_s <= from_s) to_s = from_s + 1e-6;
  double mean_w = (energy_until_j(gpu, to_s) - energy_until_j(gpu, from_s)) / (to_s - from_s);
  return (unsigned)llround(mean_w * mw_per_w);
}

static unsigned long long counter_mj(int gpu) {
  double to_s = last_update_s(counter_period_s);
  if (trace_time_s() < reset_s)
    return counter_start_mj + (unsigned long long)(energy_until_j(gpu, to_s) * 1e3);
  double since_j = energy_until_j(gpu, to_s) - energy_until_j(gpu, reset_s);
  return since_j > 0 ? (unsigned long long)(since_j * 1e3) : 0;
}

/* Which GPU a handle means, and whether it answers this kind of query now. */
static int ask(void *handle, const char *kind, int *gpu) {
  if (!num_inits) return UNINITIALIZED;
  *gpu = (int)(intptr_t)handle - 1;
  if (*gpu < 0 || *gpu >= num_gpus) return INVALID_ARGUMENT;
  if (latency_us) usleep(latency_us);
  double now_s = trace_time_s();
  for (int i = 0; i < num_faults; i++) {
    Fault *fault = &faults[i];
    if (now_s >= fault->from_s && now_s < fault->to_s && (fault->gpu < 0 || fault->gpu == *gpu))
      return fault->code;
  }
  return *kind && strstr(unsupported, kind) ? NOT_SUPPORTED : SUCCESS;
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
  num_inits++;
  return SUCCESS;
}

int nvmlShutdown(void) {
  if (!num_inits) return UNINITIALIZED;
  num_inits--;
  return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  return snprintf(text, size, "555.00.replay") > 0 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  if (!num_inits) return UNINITIALIZED;
  *count = num_gpus;
  return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  if (!num_inits) return UNINITIALIZED;
  if ((int)index >= num_gpus) return INVALID_ARGUMENT;
  *handle = (void *)(intptr_t)(index + 1);
  return SUCCESS;
}

/* Slices are named after their card: MIG-GPU-5f0c0000-... */
int nvmlDeviceGetHandleByUUID(const char *wanted, void **handle) {
  for (int gpu = 0; gpu < num_gpus; gpu++) {
    char uuid[96];
    write_uuid(gpu, uuid, sizeof uuid);
    if (strcmp(uuid, wanted) && strcmp(uuid, wanted + 4)) continue;
    *handle = (void *)(intptr_t)(gpu + 1);
    return SUCCESS;
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
  *count = num_pids;
  if (room < num_pids) return INSUFFICIENT_SIZE;
  for (unsigned i = 0; i < num_pids; i++) processes[i] = (Process){.pid = pids[i]};
  return SUCCESS;
}
