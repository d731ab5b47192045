/* The trace that nvml_replay.c replays, its settings, and what the meters of a GPU make of it. */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_GPUS = 16, MAX_FAULTS = 4096, MAX_PIDS = 64, EVERYTHING = -1 };

typedef struct {
  double time_s, power_w[MAX_GPUS];
  double energy_j[MAX_GPUS]; /* from the start of the trace to time_s */
} Point;

typedef struct { double from_s, to_s; int gpu, code; } Fault;

static Point *points;
static int num_points, num_gpus = 1;
static Fault faults[MAX_FAULTS];
static int num_faults;
static Fault reload = {INFINITY, INFINITY, EVERYTHING, 0};
static unsigned pids[MAX_PIDS];
static unsigned num_pids;
static double start_s = -1, power_period_s, power_window_s, reset_s, mw_per_w;
static double counter_period_s, counter_phase_s, mj_per_j, stuck_s;
static unsigned long long counter_start_mj;
static int latency_us, is_sliced, first_uuid;
static FILE *live; /* the trace, where it grows; else NULL */
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER; /* of a trace that grows */
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

/* The point that a line of the trace says; whether it says one. */
static int is_point(char *line, Point *point) {
  if (*line == '#' || *line == '\n') return 0;
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
  return 1;
}

static void add_point(const Point *point) {
  static int room = 1;
  if (num_points == room) points = realloc(points, (room *= 2) * sizeof *points);
  Point *new = &points[num_points++];
  *new = *point;
  for (int gpu = 0; gpu < num_gpus && num_points > 1; gpu++)
    new->energy_j[gpu] =
        new[-1].energy_j[gpu] + new[-1].power_w[gpu] * (new->time_s - new[-1].time_s);
}

/* Take the whole lines that are new in a trace that grows. Call it with `reading` held. */
static void read_on(void) {
  char line[4096];
  clearerr(live);
  for (long from = ftell(live); fgets(line, sizeof line, live); from = ftell(live)) {
    if (!strchr(line, '\n')) { /* The rest of it is yet to be written. */
      fseek(live, from, SEEK_SET);
      return;
    }
    Point point;
    if (!is_point(line, &point)) continue;
    while (num_points && points[num_points - 1].time_s >= point.time_s) num_points--;
    add_point(&point);
  }
}

static void read_trace(const char *path) {
  points = calloc(1, sizeof *points);
  num_points = 1;
  points[0].power_w[0] = 100;
  FILE *file = path ? fopen(path, "re") : NULL;
  if (!file) return;
  num_points = 0;
  if (setting("NVML_REPLAY_LIVE", 0)) {
    live = file;
    read_on();
    return;
  }
  char line[4096];
  Point point;
  while (fgets(line, sizeof line, file))
    if (is_point(line, &point)) add_point(&point);
  fclose(file);
}

static const char *first_item(const char *key) {
  const char *text = getenv(key);
  return text && *text ? text : NULL;
}

static const char *next_item(const char *text) {
  const char *comma = strchr(text, ',');
  return comma ? comma + 1 : NULL;
}

/* A setting as it is now, of `value` or `value,t:value,...`: the last whose time has come. */
static double setting_now(const char *key, double fallback) {
  double now_s = trace_time_s(), value = fallback;
  for (const char *text = first_item(key); text; text = next_item(text)) {
    double from_s = -INFINITY, item;
    if (sscanf(text, "%lf:%lf", &from_s, &item) == 2) {
      if (now_s >= from_s) value = item;
    } else value = atof(text);
  }
  return value;
}

/* Read at each question: a test changes them while it runs. */
static void read_pids(void) {
  num_pids = 0;
  for (const char *text = first_item("NVML_REPLAY_PIDS"); text; text = next_item(text))
    if (num_pids < MAX_PIDS) pids[num_pids++] = (unsigned)atoi(text);
}

static void read_settings(void) {
  power_period_s = setting("NVML_REPLAY_POWER_PERIOD_MS", 100) / 1e3;
  power_window_s = setting("NVML_REPLAY_POWER_WINDOW_MS", 25) / 1e3;
  counter_period_s = setting("NVML_REPLAY_COUNTER_PERIOD_MS", 20) / 1e3;
  counter_phase_s = setting("NVML_REPLAY_COUNTER_PHASE_MS", 0) / 1e3;
  counter_start_mj = (unsigned long long)setting("NVML_REPLAY_COUNTER_MJ", 123456789);
  reset_s = setting("NVML_REPLAY_RESET_S", INFINITY);
  latency_us = (int)setting("NVML_REPLAY_LATENCY_US", 0);
  mw_per_w = setting("NVML_REPLAY_MW_PER_W", 1000);
  mj_per_j = setting("NVML_REPLAY_MJ_PER_J", 1000);
  stuck_s = setting("NVML_REPLAY_COUNTER_STUCK_S", INFINITY);
  is_sliced = (int)setting("NVML_REPLAY_MIG", 0);
  first_uuid = (int)setting("NVML_REPLAY_FIRST_UUID", 0);
  start_s = setting("NVML_REPLAY_START_S", monotonic_s());
  if (getenv("NVML_REPLAY_UNSUPPORTED")) unsupported = getenv("NVML_REPLAY_UNSUPPORTED");
  if (getenv("NVML_REPLAY_NAME")) name = getenv("NVML_REPLAY_NAME");
  for (const char *text = first_item("NVML_REPLAY_FAULTS"); text; text = next_item(text)) {
    Fault *fault = &faults[num_faults];
    if (num_faults < MAX_FAULTS && sscanf(text, "%lf:%lf:%d:%d", &fault->from_s, &fault->to_s,
                                          &fault->gpu, &fault->code) == 4)
      num_faults++;
  }
  const char *away = first_item("NVML_REPLAY_RELOAD");
  if (away) sscanf(away, "%lf:%lf:%d", &reload.from_s, &reload.to_s, &reload.code);
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

static double last_update_s(double period_s, double phase_s) {
  double now_s = trace_time_s();
  return period_s > 0 ? floor((now_s - phase_s) / period_s) * period_s + phase_s : now_s;
}

static void hold_trace(void) {
  if (!live) return;
  pthread_mutex_lock(&reading);
  read_on();
}

static void release_trace(void) {
  if (live) pthread_mutex_unlock(&reading);
}

static unsigned power_mw(int gpu, double window_s) {
  double to_s = last_update_s(power_period_s, 0), from_s = to_s - window_s;
  if (from_s < 0) from_s = 0;
  if (to_s <= from_s) to_s = from_s + 1e-6;
  hold_trace();
  double mean_w = (energy_until_j(gpu, to_s) - energy_until_j(gpu, from_s)) / (to_s - from_s);
  release_trace();
  return (unsigned)llround(mean_w * mw_per_w);
}

static unsigned long long counter_mj(int gpu) {
  double now_s = trace_time_s(), to_s = last_update_s(counter_period_s, gpu * counter_phase_s);
  if (to_s > stuck_s) to_s = stuck_s;
  double restart_s = now_s >= reload.to_s ? reload.to_s : reset_s;
  int is_first = now_s < restart_s;
  hold_trace();
  double since_j = energy_until_j(gpu, to_s) - (is_first ? 0 : energy_until_j(gpu, restart_s));
  release_trace();
  if (is_first) return counter_start_mj + (unsigned long long)(since_j * mj_per_j);
  return since_j > 0 ? (unsigned long long)(since_j * mj_per_j) : 0;
}
