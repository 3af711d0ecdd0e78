/* Keeps the state of a prompt and continues from it three times: at once, restored into larger caches, and taken back. The logits must
 * be the same to the bit. Built as generate.c is; the arguments are the same:
 *
 *   ./resume ./model.braidart weights.bin 16 12 7 99                     # 16 tokens after the ids 12 7 99, three times
 *
 * Prints the saved bytes in hexadecimal if the first argument is --bytes, and nothing else.
 */
#include BRAID_MODEL_H

#include "host.h"

/* Continues greedily; the logits of each token go to `all`. */
static void go_on(BraidEntry step, BraidCall *call, const float *first, int32_t position, int32_t wanted, float *all) {
  memcpy(all, first, sizeof(float) * BRAID_VOCAB);
  for (int32_t i = 1; i < wanted; i++) {
    int32_t next = likeliest(all + (int64_t)(i - 1) * BRAID_VOCAB);
    memcpy(all + (int64_t)i * BRAID_VOCAB, feed(step, call, &next, 1, position + i - 1), sizeof(float) * BRAID_VOCAB);
  }
}

int main(int count, char **words) {
  int bytes = count > 1 && strcmp(words[1], "--bytes") == 0;
  if (bytes) words++, count--;
  if (count < 5) fail("usage", "resume [--bytes] ARTIFACT WEIGHTS TOKENS ID...");
  void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fail("cannot load", dlerror());
  int32_t wanted = atoi(words[3]), length = count - 4;
  if (wanted < 2) fail("usage", "at least two tokens, please");
  int32_t *ids = token_ids(words + 4, length);
  BraidCall call = prepared(library, words[2], length + wanted);
  BraidEntry prefill = entry(library, "braid_prefill"), step = entry(library, "braid_step");

  float *first = memory(BRAID_VOCAB * (int64_t)sizeof(float));
  memcpy(first, feed_all(prefill, &call, ids, length), sizeof(float) * BRAID_VOCAB);
  uint8_t *saved = memory(braid_saved_bytes(length));
  braid_slot_save(saved, call.states, call.capacity, length);
  for (int64_t i = 0; bytes && i < braid_saved_bytes(length); i++) printf("%02x", saved[i]);
  if (bytes) return 0;

  int64_t size = (int64_t)sizeof(float) * BRAID_VOCAB * wanted;
  float *once = memory(size), *again = memory(size);
  go_on(step, &call, first, length, wanted, once);

  /* Into caches of another size. */
  BraidCall larger = prepared(library, words[2], length + wanted + 48);
  if (braid_slot_restore(larger.states, larger.capacity, saved, length)) fail("the state does not fit", NULL);
  go_on(step, &larger, first, length, wanted, again);
  if (memcmp(once, again, (size_t)size)) fail("the restored state goes on otherwise", NULL);

  /* Back where it was: cut where the states can be, restored where they forget. */
  int cut = braid_slot_truncate(call.states, call.capacity, length + wanted - 1, length) == 0;
  if (!cut && braid_slot_restore(call.states, call.capacity, saved, length)) fail("the state does not fit", NULL);
  go_on(step, &call, first, length, wanted, again);
  if (memcmp(once, again, (size_t)size)) fail("taken back, it goes on otherwise", NULL);
  printf("%lld bytes saved; %s; %d rows of logits three times the same\n", (long long)braid_saved_bytes(length), cut ? "cut" : "restored",
         wanted);
  return 0;
}
