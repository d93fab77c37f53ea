/* The floor for benchmarks/loaders.py: one loop in C that gathers, crops (zero padding 4), flips and
   normalizes 32 x 32 RGB images to float32 NCHW, with the choices made beforehand.

   A row is deinterleaved into a padded one first, so that every loop has a constant length and
   vectorizes; reading the source once per output pixel is a third as fast. */
#include <stdint.h>
#include <string.h>

enum { SIDE = 32, PAD = 4, BYTES = SIDE * SIDE * 3 };

/* choices: (top, left, flip) per image, top and left from 0 to 2 * PAD */
void fill(const uint8_t *pool, const int64_t *index, const int64_t *choices, float *out, long count) {
    uint8_t row[3][SIDE + 2 * PAD];
    memset(row, 0, sizeof row);
    for (long i = 0; i < count; i++) {
        const uint8_t *image = pool + index[i] * BYTES;
        long top = choices[3 * i] - PAD, left = choices[3 * i + 1], flip = choices[3 * i + 2];
        for (int y = 0; y < SIDE; y++) {
            float *to = out + i * BYTES + y * SIDE;
            long from = y + top;
            if (from < 0 || from >= SIDE) {
                for (int c = 0; c < 3; c++)
                    for (int x = 0; x < SIDE; x++) to[c * SIDE * SIDE + x] = -1;
                continue;
            }
            const uint8_t *source = image + from * SIDE * 3;
            for (int x = 0; x < SIDE; x++)
                for (int c = 0; c < 3; c++) row[c][PAD + x] = source[3 * x + c];
            for (int c = 0; c < 3; c++) {
                const uint8_t *bytes = row[c] + left;
                float *line = to + c * SIDE * SIDE;
                if (flip)
                    for (int x = 0; x < SIDE; x++)
                        line[x] = (2 * (int)bytes[SIDE - 1 - x] - 255) * (1.0f / 255);
                else
                    for (int x = 0; x < SIDE; x++) line[x] = (2 * (int)bytes[x] - 255) * (1.0f / 255);
            }
        }
    }
}
