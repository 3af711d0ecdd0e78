/* Loads a model with a source (a sound, a picture) without any other library and generates token ids greedily.
 *
 *   braid build model.braid -o model.braidart                      # writes model.braidart and model.h
 *   braid-run pack model.braidart --weights checkpoint/ -o weights.bin
 *   cc -O2 -DBRAID_MODEL_H='"model.h"' -I. listen.c -o listen -ldl
 *   ./listen ./model.braidart weights.bin 16 sound.f32 12 7 99        # 16 tokens after the ids 12 7 99
 *
 * sound.f32 holds the rows of the source one behind the other, as floats; the model has one input beside token ids.
 */
#include BRAID_MODEL_H

#include "host.h"

/* Gives the sequence its source: written into the arena, then all rows in one call. Returns how many there are. */
static int32_t encode(BraidEntry encode, BraidCall *call, const float *numbers, int32_t rows) {
  static int32_t zero[1];
  const BraidInput *input = &braid_inputs[0];
  int32_t *positions = malloc(sizeof *positions * (size_t)rows), *segments = calloc((size_t)rows, sizeof *segments);
  if (!positions || !segments) fail("no memory", NULL);
  for (int32_t row = 0; row < rows; row++) positions[row] = row;
  memcpy(call->arena + input->arena_row_offset * call->rows_capacity, numbers, sizeof(float) * (size_t)(rows * input->elements));
  BraidSegment segment = {0, 0, rows, 0, rows};
  call->rows = rows;
  call->segments = 1;
  call->wanted = 0;
  call->tokens = segments;
  call->positions = positions;
  call->row_segments = segments;
  call->segment_table = &segment;
  call->wanted_rows = zero;
  run(encode, call);
  free(positions);
  free(segments);
  return rows;
}

int main(int count, char **words) {
  if (count < 6) fail("usage", "listen ARTIFACT WEIGHTS TOKENS SOURCE ID...");
  void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fail("cannot load", dlerror());
  const BraidInput *input = &braid_inputs[0];
  if (BRAID_INPUTS != 1 || !input->encoded || !input->is_float) fail("this model has not one source of floats", words[1]);
  FILE *file = fopen(words[4], "rb");
  if (!file || fseek(file, 0, SEEK_END) != 0) fail("cannot read", words[4]);
  int64_t numbers = ftell(file) / (int64_t)sizeof(float), rows = numbers / input->elements;
  float *source = memory(numbers * (int64_t)sizeof(float));
  rewind(file);
  if (rows < 1 || fread(source, sizeof(float), (size_t)numbers, file) != (size_t)numbers) fail("no rows of a source", words[4]);
  fclose(file);

  int32_t wanted = atoi(words[3]), length = count - 5;
  if (wanted < 1) fail("usage", "at least one token, please");
  int32_t *ids = token_ids(words + 5, length);
  int64_t positions = length + wanted;
  BraidCall call = prepared(library, words[2], rows > positions ? rows : positions);
  held = encode(entry(library, "braid_encode"), &call, source, (int32_t)rows);
  BraidEntry prefill = entry(library, "braid_prefill"), step = entry(library, "braid_step");
  int32_t next = likeliest(feed_all(prefill, &call, ids, length));
  for (int32_t i = 0; i < wanted; i++) {
    printf("%s%d", i ? "," : "", next);
    if (i + 1 < wanted) next = likeliest(feed(step, &call, &next, 1, length + i));
  }
  printf("\n");
  return 0;
}
