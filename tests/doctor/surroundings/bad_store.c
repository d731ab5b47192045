/* A file system without promises, below the folder BAD_STORE: loaded by LD_PRELOAD.
 *
 * Build: gcc -O2 -shared -fPIC -o bad_store.so bad_store.c -ldl
 *
 * BAD_STORE_BREAKS names what is broken, of `files,folders,over,exclusive`:
 *   files      rename of a file removes the target, sleeps, and copies in two halves
 *   folders    rename of a folder makes the target, and moves one file after the other
 *   over       rename of a folder to one that exists replaces it
 *   exclusive  O_EXCL is ignored, as by NFS before version 3
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAUSE_US = 10000 };

static int breaks(const char *what, const char *path) {
  const char *root = getenv("BAD_STORE"), *broken = getenv("BAD_STORE_BREAKS");
  return root && broken && strstr(broken, what) && !strncmp(path, root, strlen(root));
}

static int real_rename(const char *from, const char *to) {
  static int (*found)(const char *, const char *);
  if (!found) found = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
  return found(from, to);
}

static int copy(const char *from, const char *to) {
  FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
  if (!in || !out) return -1;
  fseek(in, 0, SEEK_END);
  long size = ftell(in), half = size / 2;
  rewind(in);
  char *bytes = malloc(size + 1);
  size = (long)fread(bytes, 1, size, in);
  fwrite(bytes, 1, half, out);
  fflush(out);
  usleep(PAUSE_US);
  fwrite(bytes + half, 1, size - half, out);
  free(bytes);
  fclose(in);
  fclose(out);
  return unlink(from);
}

static int move_one_by_one(const char *from, const char *to) {
  if (mkdir(to, 0777)) return -1;
  DIR *folder = opendir(from);
  for (struct dirent *entry; (entry = readdir(folder));) {
    if (entry->d_name[0] == '.') continue;
    char one[4096], other[4096];
    snprintf(one, sizeof one, "%s/%s", from, entry->d_name);
    snprintf(other, sizeof other, "%s/%s", to, entry->d_name);
    usleep(2 * PAUSE_US);
    real_rename(one, other);
  }
  closedir(folder);
  return rmdir(from);
}

int rename(const char *from, const char *to) {
  struct stat state;
  int is_folder = !stat(from, &state) && S_ISDIR(state.st_mode);
  if (!is_folder && breaks("files", to)) {
    unlink(to);
    usleep(PAUSE_US);
    return copy(from, to);
  }
  if (is_folder && breaks("over", to) && !stat(to, &state)) {
    char away[4096];
    snprintf(away, sizeof away, "%s.away", to);
    real_rename(to, away);
    return real_rename(from, to);
  }
  if (is_folder && breaks("folders", to)) return move_one_by_one(from, to);
  return real_rename(from, to);
}

static int open_as(const char *name, const char *path, int flags, mode_t mode) {
  int (*found)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
  return found(path, breaks("exclusive", path) ? flags & ~O_EXCL : flags, mode);
}

#define OPEN(name)                                         \
  int name(const char *path, int flags, ...) {             \
    va_list rest;                                          \
    va_start(rest, flags);                                 \
    mode_t mode = flags & O_CREAT ? va_arg(rest, int) : 0; \
    va_end(rest);                                          \
    return open_as(#name, path, flags, mode);              \
  }

OPEN(open)
OPEN(open64)
