// Filter behind quick-select (SpAtten, Fig. 9): reads the buffered input once more and passes on what is above the
// threshold and the first `ties` of what equals it, packed by a zero eliminator: winners in the order of the input.
`default_nettype none

module winner_filter #(
    parameter LANES = 16,
    parameter DEPTH = 64,
    parameter WIDTH = 12,
    parameter COUNT_BITS = $clog2(LANES + 1),
    parameter SIZE_BITS = $clog2(LANES * DEPTH + 1),
    parameter ROW_BITS = $clog2(DEPTH + 1)
) (
    input  wire                               clk,
    input  wire                               reset,
    input  wire                               start,       // taken when ready
    output wire                               ready,
    input  wire [SIZE_BITS-1:0]               n,
    input  wire [WIDTH-1:0]                   threshold,
    input  wire [SIZE_BITS-1:0]               ties,
    output wire [ROW_BITS-1:0]                buffer_row,  // rests at 0, so that row 0 is there at once
    input  wire [LANES*WIDTH-1:0]             buffer_data,
    output wire                               done,        // the last row has been read
    output wire                               out_valid,
    output wire                               out_last,
    output wire [COUNT_BITS-1:0]              out_count,
    output wire [LANES*(SIZE_BITS+WIDTH)-1:0] out_data     // a lane: {position, value}
);
    localparam WINNER = SIZE_BITS + WIDTH;
    reg busy;
    reg [SIZE_BITS-1:0] left, ties_left, position;
    reg [WIDTH-1:0] bar;
    reg [ROW_BITS-1:0] row;  // the next one to be addressed
    assign ready = !busy;
    assign buffer_row = busy ? row : 0;
    wire last_row = left <= LANES;
    assign done = busy && last_row;

    reg [LANES-1:0] keep;
    reg [LANES*WINNER-1:0] candidates;
    reg [SIZE_BITS-1:0] ties_after;
    integer lane;
    always @* begin
        ties_after = ties_left;
        for (lane = 0; lane < LANES; lane = lane + 1) begin
            keep[lane] = lane < left && buffer_data[lane*WIDTH+:WIDTH] > bar;
            if (lane < left && buffer_data[lane*WIDTH+:WIDTH] == bar && ties_after != 0) begin
                keep[lane] = 1;
                ties_after = ties_after - 1;
            end
            candidates[lane*WINNER+:WIDTH] = buffer_data[lane*WIDTH+:WIDTH];
            candidates[lane*WINNER+WIDTH+:SIZE_BITS] = position + lane;
        end
    end

    always @(posedge clk)
        if (reset) busy <= 0;
        else if (!busy) begin
            busy <= start;
            left <= n;
            ties_left <= ties;
            bar <= threshold;
            position <= 0;
            row <= 1;
        end else begin
            busy <= !last_row;
            left <= left - LANES;
            ties_left <= ties_after;
            position <= position + LANES;
            row <= row + 1;
        end

    zero_eliminator #(.LANES(LANES), .WIDTH(WINNER), .REGISTERED(1)) eliminator (
        .clk(clk), .reset(reset), .in_valid(busy), .in_last(last_row), .keep(keep), .data(candidates),
        .out_valid(out_valid), .out_last(out_last), .count(out_count), .packed_data(out_data));
endmodule

`default_nettype wire
