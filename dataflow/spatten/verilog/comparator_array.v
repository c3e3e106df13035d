// LANES comparators with one operand in common (SpAtten, Fig. 9): which lanes are above (or below) the pivot.
`default_nettype none

module comparator_array #(
    parameter LANES = 16,
    parameter WIDTH = 12,
    parameter ABOVE = 1  // 1: '>', 0: '<'
) (
    input  wire [LANES*WIDTH-1:0] data,
    input  wire [LANES-1:0]       valid,
    input  wire [WIDTH-1:0]       pivot,
    output reg  [LANES-1:0]       hit
);
    integer lane;
    always @*
        for (lane = 0; lane < LANES; lane = lane + 1)
            hit[lane] = valid[lane] && (ABOVE ? data[lane*WIDTH+:WIDTH] > pivot : data[lane*WIDTH+:WIDTH] < pivot);
endmodule

`default_nettype wire
