/* The C interface of a Braid artifact.
 *
 * An artifact is a shared library (load it with dlopen; its file carries a manifest after the library's last byte).
 * It keeps no memory of its own, never allocates, and is reentrant: all it touches is what a BraidCall points to.
 *
 *   1. Map the weights: a file written by `braid-run pack ARTIFACT --weights DIR -o FILE`.
 *   2. Allocate, aligned to BRAID_ALIGN: prepared, arena, scratch, states, output (sizes below).
 *   3. Fill every slot's states with the elements of braid_states[] (braid_slot_reset does it).
 *   4. Call braid_prepare once with weights, prepared, scratch, arena.
 *   5. If the model has a source (an input of braid_inputs is encoded): call braid_encode once for each sequence after its reset, with
 *      all rows of the source as one segment at position 0, nothing wanted. Then `source` of its segments is that number of rows.
 *   6. Call braid_prefill for segments of several rows, braid_step if every segment has exactly one.
 *   7. braid_slot_save, braid_slot_restore and braid_slot_truncate go back in a sequence, or copy it.
 *
 * Results are row-major: output[i * BRAID_VOCAB + j] is logit j of row wanted_rows[i]. An entry returns 0, or a number
 * that tells which of the caller's promises was broken.
 */
#ifndef BRAID_H
#define BRAID_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Alignment in bytes of every buffer of numbers. */
#define BRAID_ALIGN 64

/* One sequence's part of a call: `rows` consecutive rows of all per-row tables. */
typedef struct BraidSegment {
  int32_t slot;     /* whose states: states + slot * slot_bytes */
  int32_t row;      /* first row */
  int32_t rows;     /* how many, at most BRAID_MAX_ROWS */
  int32_t position; /* how many positions the states have seen */
  int32_t source;   /* how many positions of a source braid_encode has given the states; 0: none */
} BraidSegment;

typedef struct BraidCall BraidCall;

/* A piece of work: does tasks begin..end as thread `thread` (0 <= thread < number of scratch areas). */
typedef void (*BraidKernel)(const BraidCall *call, const int64_t *operands, int64_t begin, int64_t end, int64_t thread);

/* Runs `tasks` tasks of `kernel` and returns when all are done. */
typedef void (*BraidParallel)(const BraidCall *call, BraidKernel kernel, const int64_t *operands, int64_t tasks);

/* The one argument of every entry point. */
struct BraidCall {
  int64_t rows;                      /* rows (tokens) of this call, at most rows_capacity */
  int64_t rows_capacity;             /* the row count that the arena was made for */
  int64_t segments;                  /* sequences in this call */
  int64_t wanted;                    /* rows whose outputs are wanted */
  int64_t capacity;                  /* positions that each sequence's caches hold; a multiple of 16 */
  const int32_t *tokens;             /* [rows] token ids; the caller checks that they are in range */
  const int32_t *positions;          /* [rows] absolute position of each row */
  const int32_t *row_segments;       /* [rows] index into segment_table */
  const BraidSegment *segment_table; /* [segments] */
  const int32_t *wanted_rows;        /* [wanted] row numbers, rising */
  const uint8_t *weights;            /* BRAID_WEIGHTS_BYTES */
  uint8_t *prepared;                 /* BRAID_PREPARED_BYTES, filled by braid_prepare */
  uint8_t *arena;                    /* BRAID_ARENA_ROW_BYTES * rows_capacity; contents are lost between calls, inputs are written before */
  uint8_t *states;                   /* slot_bytes for each slot */
  int64_t slot_bytes;                /* BRAID_STATE_FIXED_BYTES + BRAID_STATE_POSITION_BYTES * capacity */
  uint8_t *scratch;                  /* BRAID_SCRATCH_BYTES for each thread */
  float *output;                     /* [wanted][BRAID_VOCAB] */
  BraidParallel parallel;            /* spreads tasks over threads; NULL: the calling thread does all */
  void *pool;                        /* for parallel's own use */
};

/* An entry point: int32_t braid_prepare(const BraidCall *), braid_prefill, braid_step. */
typedef int32_t (*BraidEntry)(const BraidCall *call);

int32_t braid_prepare(const BraidCall *call);
int32_t braid_encode(const BraidCall *call);
int32_t braid_prefill(const BraidCall *call);
int32_t braid_step(const BraidCall *call);

/* What each row of a call is given beside its token id: element e of row r is number r * elements + e, a float or an int32_t, behind
 * byte arena_row_offset * rows_capacity of the arena. Write it before each braid_prefill and braid_step. */
typedef struct BraidInput {
  const char *name;
  int32_t is_float;
  int64_t elements;
  int64_t arena_row_offset;
  int32_t encoded; /* its rows are those of the source: write it before braid_encode */
} BraidInput;

/* How a state is taken back to an earlier position. */
enum {
  BRAID_ROWS = 0,  /* row p is position p: later rows get the first value again */
  BRAID_RING = 1,  /* position p is row p below `first`, then row first + (p - first) % (rows - first); at most `back` positions,
                      or any while not more than `rows` were seen */
  BRAID_REPLAY = 2, /* it forgets: restore a saved state */
  BRAID_KEEP = 3    /* made of the source by braid_encode: stays as it is */
};

/* One piece of memory that a sequence carries from call to call: at byte fixed_offset + position_offset * capacity of its
 * slot, fixed_bytes + position_bytes * capacity bytes, every element of which starts as init_bits. It has `rows` rows, or as many as
 * the capacity if that is 0, in each of `parts` equal pieces; element e of row r, of n in a row, is number
 * (r / block * n + e) * block + r % block of a piece. */
typedef struct BraidState {
  const char *name;
  const char *kind;
  int64_t element_bytes;
  int64_t fixed_offset, position_offset;
  int64_t fixed_bytes, position_bytes;
  uint32_t init_bits;
  int64_t rows, parts, block;
  int32_t truncate; /* BRAID_ROWS, BRAID_RING or BRAID_REPLAY */
  int64_t first, back;
} BraidState;

/*@model@*/
#ifdef __cplusplus
}
#endif

#endif /* BRAID_H */
