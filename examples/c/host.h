/* What the examples share: errors, memory, weights, entry points, and feeding one sequence. Include the model's header before. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void fail(const char *what, const char *detail) {
  fprintf(stderr, "error: %s%s%s\n", what, detail ? ": " : "", detail ? detail : "");
  exit(1);
}

/* Zeroed memory, aligned as the artifact wants it. */
static void *memory(int64_t bytes) {
  size_t size = ((size_t)bytes / BRAID_ALIGN + 1) * BRAID_ALIGN;
  void *pointer = aligned_alloc(BRAID_ALIGN, size);
  if (!pointer) fail("no memory", NULL);
  return memset(pointer, 0, size);
}

/* The packed weights: a map of the file is all it takes. */
static const uint8_t *weights(const char *path) {
  struct stat info;
  int file = open(path, O_RDONLY);
  if (file < 0 || fstat(file, &info) != 0) fail("cannot read", path);
  if (info.st_size < BRAID_WEIGHTS_BYTES) fail("not the packed weights of this model", path);
  void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (map == MAP_FAILED) fail("cannot map", path);
  return map;
}

static BraidEntry entry(void *library, const char *name) {
  BraidEntry found;
  *(void **)&found = dlsym(library, name);
  if (!found) fail("not an artifact", dlerror());
  return found;
}

static void run(BraidEntry entry, const BraidCall *call) {
  int32_t code = entry(call);
  if (code != 0) {
    fprintf(stderr, "error: the artifact returned %d\n", code);
    exit(4);
  }
}

/* Positions of its source that the one sequence holds. */
static int32_t held;

/* Feeds `rows` tokens of the one sequence; the last one's logits come out. */
static const float *feed(BraidEntry entry, BraidCall *call, const int32_t *ids, int32_t rows, int32_t position) {
  static int32_t positions[BRAID_MAX_ROWS], row_segments[BRAID_MAX_ROWS], wanted[1];
  BraidSegment segment = {0, 0, rows, position, held};
  for (int32_t row = 0; row < rows; row++) positions[row] = position + row;
  wanted[0] = rows - 1;
  call->rows = rows;
  call->segments = call->wanted = 1;
  call->tokens = ids;
  call->positions = positions;
  call->row_segments = row_segments;
  call->segment_table = &segment;
  call->wanted_rows = wanted;
  run(entry, call);
  return call->output;
}

/* Feeds a prompt of any length, in calls of at most BRAID_MAX_ROWS rows. */
static const float *feed_all(BraidEntry prefill, BraidCall *call, const int32_t *ids, int32_t length) {
  for (int32_t position = 0; position < length; position += BRAID_MAX_ROWS) {
    int32_t rows = length - position < BRAID_MAX_ROWS ? length - position : BRAID_MAX_ROWS;
    feed(prefill, call, ids + position, rows, position);
  }
  return call->output;
}

static int32_t likeliest(const float *logits) {
  int32_t best = 0;
  for (int32_t i = 1; i < BRAID_VOCAB; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

/* The ids of a command line. */
static int32_t *token_ids(char **words, int32_t length) {
  int32_t *ids = malloc(sizeof *ids * (size_t)length);
  if (!ids) fail("no memory", NULL);
  for (int32_t i = 0; i < length; i++) {
    ids[i] = atoi(words[i]);
    if (ids[i] < 0 || ids[i] >= BRAID_VOCAB) fail("token id out of range", words[i]);
  }
  return ids;
}

/* Everything that a call on one thread needs, for one sequence of so many positions. */
static BraidCall prepared(void *library, const char *weights_path, int64_t positions) {
  BraidCall call = {0};
  call.capacity = (positions + 15) / 16 * 16;
  /* A source comes in one call. */
  call.rows_capacity = BRAID_INPUTS > 0 && call.capacity > BRAID_MAX_ROWS ? call.capacity : BRAID_MAX_ROWS;
  call.slot_bytes = braid_slot_bytes(call.capacity);
  call.weights = weights(weights_path);
  call.prepared = memory(BRAID_PREPARED_BYTES);
  call.arena = memory(BRAID_ARENA_ROW_BYTES * call.rows_capacity);
  call.states = memory(call.slot_bytes);
  call.scratch = memory(BRAID_SCRATCH_BYTES);
  call.output = memory(BRAID_VOCAB * (int64_t)sizeof(float));
  braid_slot_reset(call.states, call.capacity);
  run(entry(library, "braid_prepare"), &call);
  return call;
}
