// FIFO_L, FIFO_R or input buffer: DEPTH rows of LANES values, each lane a memory with one write and one read port.
//
// Up to LANES packed values are pushed in a cycle, rotated so that rows fill without holes: without that a pass would
// not get shorter as survivors get fewer. `turn` closes the segment that is being written, makes it the readable one,
// and begins the next at the following row. What a segment may still read is never overwritten as long as no more is
// pushed than has been read, which is what a quick-select pass does. A push beyond LANES * DEPTH is not taken: `overrun`.
`default_nettype none

module survivor_fifo #(
    parameter LANES = 16,
    parameter DEPTH = 64,
    parameter WIDTH = 12,
    parameter COUNT_BITS = $clog2(LANES + 1),
    parameter SIZE_BITS = $clog2(LANES * DEPTH + 1),
    parameter ROW_BITS = $clog2(DEPTH + 1)
) (
    input  wire                   clk,
    input  wire                   reset,
    input  wire                   turn,
    input  wire                   push,
    input  wire [COUNT_BITS-1:0]  push_count,
    input  wire [LANES*WIDTH-1:0] push_data,
    output wire                   overrun,   // this push does not fit
    output reg  [SIZE_BITS-1:0]   size,      // values of the segment that is being written
    input  wire [ROW_BITS-1:0]    read_row,  // of the readable segment (the new one where `turn`)
    output reg  [LANES*WIDTH-1:0] row        // a cycle later
);
    reg [ROW_BITS-1:0] write_base, read_base;
    wire [SIZE_BITS-1:0] rows = (size + LANES - 1) / LANES;
    wire [SIZE_BITS-1:0] offset = size % LANES;
    wire [31:0] address = ((turn ? write_base : read_base) + read_row) % DEPTH;
    assign overrun = push && size + push_count > LANES * DEPTH;
    wire taken = push && !overrun;

    always @(posedge clk)
        if (reset) begin
            size <= 0;
            write_base <= 0;
            read_base <= 0;
        end else if (turn) begin
            size <= 0;
            read_base <= write_base;
            write_base <= (write_base + rows) % DEPTH;
        end else if (taken) size <= size + push_count;

    // Lane b takes the value that comes (b - offset) places after the first one.
    wire [2*LANES*WIDTH-1:0] doubled = {push_data, push_data} >> ((LANES - offset) * WIDTH);
    wire [2*LANES-1:0] pushed = {{LANES{1'b0}}, ~({LANES{1'b1}} << push_count)} << offset;
    wire [LANES-1:0] write = taken ? pushed[LANES-1:0] | pushed[2*LANES-1:LANES] : 0;
    wire [31:0] this_row = (write_base + size / LANES) % DEPTH;
    wire [31:0] next_row = this_row + 1 == DEPTH ? 0 : this_row + 1;
    wire [LANES*WIDTH-1:0] read;
    always @(posedge clk) row <= read;

    genvar b;
    generate
        for (b = 0; b < LANES; b = b + 1) begin : bank
            reg [WIDTH-1:0] memory [0:DEPTH-1];
            always @(posedge clk)
                if (write[b]) memory[b < offset ? next_row : this_row] <= doubled[b*WIDTH+:WIDTH];
            assign read[b*WIDTH+:WIDTH] = memory[address];
        end
    endgenerate
endmodule

`default_nettype wire
