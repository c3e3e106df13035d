// Zero eliminator (SpAtten, arXiv 2012.09852, Fig. 10): closes the gaps between the lanes that are kept, in order.
//
// Every lane counts the gaps before it; then ceil(log2(LANES)) stages shift by 1, 2, 4... those lanes whose count has
// that bit. With the smallest shift first no two lanes ever meet. What is kept is said by `keep`, beside the data, so
// that a value of 0 is a value like any other.
//
// REGISTERED  1: a register after every stage, a new input every cycle, the output ceil(log2(LANES)) cycles later
//             0: all stages within one cycle
`default_nettype none

module zero_eliminator #(
    parameter LANES = 16,
    parameter WIDTH = 12,
    parameter REGISTERED = 1,
    parameter COUNT_BITS = $clog2(LANES + 1)
) (
    input  wire                   clk,
    input  wire                   reset,
    input  wire                   in_valid,
    input  wire                   in_last,   // travels along
    input  wire [LANES-1:0]       keep,
    input  wire [LANES*WIDTH-1:0] data,
    output wire                   out_valid,
    output wire                   out_last,
    output wire [COUNT_BITS-1:0]  count,     // lanes 0 .. count-1 of `packed_data` are the kept ones
    output wire [LANES*WIDTH-1:0] packed_data
);
    localparam STAGES = $clog2(LANES);
    localparam PLANES = STAGES > 0 ? STAGES : 1;

    // What enters a stage: 0 is the input, STAGES the output. Bit s of lane i's gap count lies at gaps[s * LANES + i].
    wire                    valid [0:STAGES];
    wire                    last  [0:STAGES];
    wire [COUNT_BITS-1:0]   kept  [0:STAGES];
    wire [LANES-1:0]        used  [0:STAGES];
    wire [LANES*PLANES-1:0] gaps  [0:STAGES];
    wire [LANES*WIDTH-1:0]  value [0:STAGES];

    reg [LANES*PLANES-1:0] gaps_before;
    reg [COUNT_BITS-1:0]   gap_count;
    integer lane, plane;
    always @* begin  // a running sum here, a tree of adders after synthesis
        gap_count = 0;
        for (lane = 0; lane < LANES; lane = lane + 1) begin
            for (plane = 0; plane < PLANES; plane = plane + 1)
                gaps_before[plane*LANES+lane] = gap_count[plane];
            gap_count = gap_count + !keep[lane];
        end
    end

    assign valid[0] = in_valid;
    assign last[0] = in_last;
    assign kept[0] = LANES - gap_count;
    assign used[0] = keep;
    assign gaps[0] = gaps_before;
    assign value[0] = data;

    genvar s;
    generate
        for (s = 0; s < STAGES; s = s + 1) begin : stage
            shift_stage #(
                .LANES(LANES), .WIDTH(WIDTH), .PLANES(PLANES), .COUNT_BITS(COUNT_BITS), .BIT(s), .REGISTERED(REGISTERED)
            ) shift (
                .clk(clk), .reset(reset),
                .in_valid(valid[s]), .in_last(last[s]), .in_kept(kept[s]),
                .in_used(used[s]), .in_gaps(gaps[s]), .in_value(value[s]),
                .out_valid(valid[s+1]), .out_last(last[s+1]), .out_kept(kept[s+1]),
                .out_used(used[s+1]), .out_gaps(gaps[s+1]), .out_value(value[s+1])
            );
        end
    endgenerate

    assign out_valid = valid[STAGES];
    assign out_last = last[STAGES];
    assign count = kept[STAGES];
    assign packed_data = value[STAGES];
endmodule

// One stage: lanes whose gap count has bit BIT move down by 2**BIT.
module shift_stage #(
    parameter LANES = 16,
    parameter WIDTH = 12,
    parameter PLANES = 4,
    parameter COUNT_BITS = 5,
    parameter BIT = 0,
    parameter REGISTERED = 1
) (
    input  wire                      clk,
    input  wire                      reset,
    input  wire                      in_valid,
    input  wire                      in_last,
    input  wire [COUNT_BITS-1:0]     in_kept,
    input  wire [LANES-1:0]          in_used,
    input  wire [LANES*PLANES-1:0] in_gaps,
    input  wire [LANES*WIDTH-1:0]    in_value,
    output wire                      out_valid,
    output wire                      out_last,
    output wire [COUNT_BITS-1:0]     out_kept,
    output wire [LANES-1:0]          out_used,
    output wire [LANES*PLANES-1:0] out_gaps,
    output wire [LANES*WIDTH-1:0]    out_value
);
    localparam STEP = 1 << BIT;
    wire [LANES-1:0] bit_set = in_gaps[BIT*LANES+:LANES];
    wire [LANES-1:0] arrives = (in_used & bit_set) >> STEP;  // a lane takes the value of the lane STEP above
    wire [LANES-1:0] used = arrives | (in_used & ~bit_set);
    wire [LANES*WIDTH-1:0] above = in_value >> (STEP * WIDTH);
    reg [LANES*PLANES-1:0] gaps;
    reg [LANES*WIDTH-1:0] taken;
    integer lane, plane;
    always @* begin
        for (lane = 0; lane < LANES; lane = lane + 1) taken[lane*WIDTH+:WIDTH] = {WIDTH{arrives[lane]}};
        for (plane = 0; plane < PLANES; plane = plane + 1)
            gaps[plane*LANES+:LANES] = (in_gaps[plane*LANES+:LANES] & ~arrives)
                                       | ((in_gaps[plane*LANES+:LANES] >> STEP) & arrives);
    end
    wire [LANES*WIDTH-1:0] value = (in_value & ~taken) | (above & taken);

    generate
        if (REGISTERED) begin : registered
            reg                      valid_r, last_r;
            reg [COUNT_BITS-1:0]     kept_r;
            reg [LANES-1:0]          used_r;
            reg [LANES*PLANES-1:0] gaps_r;
            reg [LANES*WIDTH-1:0]    value_r;
            always @(posedge clk) begin
                valid_r <= in_valid && !reset;
                if (in_valid) begin
                    last_r <= in_last;
                    kept_r <= in_kept;
                    used_r <= used;
                    gaps_r <= gaps;
                    value_r <= value;
                end
            end
            assign out_valid = valid_r;
            assign out_last = last_r;
            assign out_kept = kept_r;
            assign out_used = used_r;
            assign out_gaps = gaps_r;
            assign out_value = value_r;
        end else begin : direct
            assign out_valid = in_valid;
            assign out_last = in_last;
            assign out_kept = in_kept;
            assign out_used = used;
            assign out_gaps = gaps;
            assign out_value = value;
        end
    endgenerate
endmodule

`default_nettype wire
