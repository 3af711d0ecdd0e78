/* Loads a Braid artifact without any other library and generates token ids greedily.
 *
 *   braid build model.braid -o model.braidart                      # writes model.braidart and model.h
 *   braid-run pack model.braidart --weights checkpoint/ -o weights.bin
 *   cc -O2 -DBRAID_MODEL_H='"model.h"' -I. generate.c -o generate -ldl
 *   ./generate ./model.braidart weights.bin 16 12 7 99                   # 16 tokens after the ids 12 7 99
 */
#include BRAID_MODEL_H

#include "host.h"

int main(int count, char **words) {
  if (count < 5) fail("usage", "generate ARTIFACT WEIGHTS TOKENS ID...");
  void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fail("cannot load", dlerror());
  int32_t wanted = atoi(words[3]), length = count - 4;
  if (wanted < 1) fail("usage", "at least one token, please");
  int32_t *ids = token_ids(words + 4, length);

  BraidCall call = prepared(library, words[2], length + wanted);
  BraidEntry prefill = entry(library, "braid_prefill"), step = entry(library, "braid_step");
  int32_t next = likeliest(feed_all(prefill, &call, ids, length));
  for (int32_t i = 0; i < wanted; i++) {
    printf("%s%d", i ? "," : "", next);
    if (i + 1 < wanted) next = likeliest(feed(step, &call, &next, 1, length + i));
  }
  printf("\n");
  return 0;
}
