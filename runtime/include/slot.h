/* ---- A slot: the states of one sequence ----------------------------------------------------------------------------------
 *
 * The caller keeps each sequence's position: how many tokens its states have seen. Capacities are multiples of 16. All functions are
 * plain loops over bytes; none allocates. */

/* Bytes of a slot. */
static inline int64_t braid_slot_bytes(int64_t capacity) {
  return BRAID_STATE_FIXED_BYTES + BRAID_STATE_POSITION_BYTES * capacity;
}

/* Bytes that braid_slot_save writes: of caches that grow, the positions in use, rounded up to 16. Of a sequence with a source, `position`
 * is here, in braid_slot_save and in braid_slot_restore whichever of both is longer. */
static inline int64_t braid_saved_bytes(int64_t position) { return braid_slot_bytes((position + 15) / 16 * 16); }

/* Makes a slot's states those of a sequence that has seen nothing. */
static inline void braid_slot_reset(uint8_t *slot, int64_t capacity) {
  for (int64_t i = 0; i < BRAID_STATES; i++) {
    const BraidState *state = &braid_states[i];
    uint8_t *bytes = slot + state->fixed_offset + state->position_offset * capacity;
    int64_t count = state->fixed_bytes + state->position_bytes * capacity;
    for (int64_t byte = 0; byte < count; byte++)
      bytes[byte] = (uint8_t)(state->init_bits >> (8 * (byte % state->element_bytes)));
  }
}

/* Copies what a sequence at `position` has of one slot into another, of the same or another capacity (both at least the position). The
 * other one must be reset. */
static inline void braid_slot_copy(uint8_t *to, int64_t to_capacity, const uint8_t *from, int64_t from_capacity, int64_t position) {
  int64_t rows = (position + 15) / 16 * 16;
  memcpy(to, from, (size_t)BRAID_STATE_FIXED_BYTES);
  for (int64_t i = 0; i < BRAID_STATES; i++) {
    const BraidState *state = &braid_states[i];
    int64_t row = state->position_bytes / state->parts;
    for (int64_t part = 0; row > 0 && part < state->parts; part++)
      memcpy(to + state->fixed_offset + state->position_offset * to_capacity + part * to_capacity * row,
             from + state->fixed_offset + state->position_offset * from_capacity + part * from_capacity * row, (size_t)(rows * row));
  }
}

/* Writes a slot's states into braid_saved_bytes(position) bytes, which can be kept, sent, or written to a file. */
static inline void braid_slot_save(uint8_t *saved, const uint8_t *slot, int64_t capacity, int64_t position) {
  braid_slot_copy(saved, (position + 15) / 16 * 16, slot, capacity, position);
}

/* Makes a slot's states those that were saved at `position`; the capacity may differ from that of the slot they come from. Returns 0, or
 * 1 if the caches are too small for the position; then nothing is changed. */
static inline int32_t braid_slot_restore(uint8_t *slot, int64_t capacity, const uint8_t *saved, int64_t position) {
  if (BRAID_STATE_POSITION_BYTES > 0 && position > capacity) return 1;
  braid_slot_reset(slot, capacity);
  braid_slot_copy(slot, capacity, saved, (position + 15) / 16 * 16, position);
  return 0;
}

/* Whether a sequence at `position` can be taken back to position `to` without a saved state. */
static inline int32_t braid_slot_can_truncate(int64_t position, int64_t to) {
  if (to < 0 || to > position) return 0;
  if (to == 0 || to == position) return 1;
  for (int64_t i = 0; i < BRAID_STATES; i++) {
    const BraidState *state = &braid_states[i];
    if (state->truncate == BRAID_REPLAY) return 0;
    if (state->truncate == BRAID_RING && position - to > state->back && position > state->rows) return 0;
  }
  return 1;
}

/* Takes a sequence at `position` back to position `to`. Returns 0, or 1 if a state forgets what was (restore an earlier one then, and feed
 * the tokens since again); then nothing is changed. */
static inline int32_t braid_slot_truncate(uint8_t *slot, int64_t capacity, int64_t position, int64_t to) {
  if (!braid_slot_can_truncate(position, to)) return 1;
  if (to == 0) braid_slot_reset(slot, capacity);
  for (int64_t i = 0; to > 0 && i < BRAID_STATES; i++) {
    const BraidState *state = &braid_states[i];
    uint8_t *bytes = slot + state->fixed_offset + state->position_offset * capacity;
    int64_t rows = state->position_bytes ? capacity : state->rows;
    if (state->truncate == BRAID_REPLAY || state->truncate == BRAID_KEEP) continue;
    int64_t part_bytes = (state->position_bytes ? state->position_bytes * capacity : state->fixed_bytes) / state->parts;
    int64_t row = part_bytes / rows / state->element_bytes;
    for (int64_t at = to > position - rows ? to : position - rows; at < position; at++) {
      int64_t place = state->truncate == BRAID_RING && at >= state->first ? state->first + (at - state->first) % (rows - state->first) : at;
      for (int64_t part = 0; part < state->parts; part++)
        for (int64_t element = 0; element < row; element++) {
          uint8_t *cell = bytes + part * part_bytes +
                          ((place / state->block * row + element) * state->block + place % state->block) * state->element_bytes;
          for (int64_t byte = 0; byte < state->element_bytes; byte++) cell[byte] = (uint8_t)(state->init_bits >> (8 * byte));
        }
    }
  }
  return 0;
}

