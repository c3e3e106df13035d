// Top-k engine (SpAtten, arXiv 2012.09852, section IV-B): the `in_keep` largest of up to LANES * DEPTH unsigned values,
// in the order in which they came; of equal values the first stay.
//
// Two input buffers: while quick-select works on one vector, the filter may still read the one before, or the next may
// be loaded. A vector that does not fit, or whose `in_keep` is not in 1 .. n, is refused and gives no output.
`default_nettype none

module topk_engine #(
    parameter LANES = 16,            // comparators of an array, Table I
    parameter DEPTH = 64,            // rows of FIFO_L, FIFO_R and of a buffer, Table I
    parameter WIDTH = 12,            // bits of a value
    parameter SHIFT_REGISTERS = 0,   // 1: registers between the shifts in front of FIFO_L and FIFO_R
    parameter RANDOM_BITS = 31,
    parameter COUNT_BITS = $clog2(LANES + 1),
    parameter SIZE_BITS = $clog2(LANES * DEPTH + 1)
) (
    input  wire                               clk,
    input  wire                               reset,
    input  wire                               in_valid,
    output wire                               in_ready,
    input  wire [COUNT_BITS-1:0]              in_count,  // values in lanes 0 .. in_count-1
    input  wire [LANES*WIDTH-1:0]             in_data,
    input  wire                               in_last,   // end of the vector
    input  wire [SIZE_BITS-1:0]               in_keep,   // read with the last values
    output reg                                refused,
    input  wire [RANDOM_BITS-1:0]             random,    // a source of uniform bits, new ones after every `draw`
    output wire                               draw,
    output wire                               out_valid,
    output wire                               out_last,
    output wire [COUNT_BITS-1:0]              out_count,
    output wire [LANES*(SIZE_BITS+WIDTH)-1:0] out_data   // a lane: {position, value}
);
    localparam ROW_BITS = $clog2(DEPTH + 1);
    reg load_bank, select_bank, filter_bank;
    reg [1:0] full;      // loaded, and not yet filtered
    reg [1:0] selected;  // of those, what the filter has or may have
    reg [SIZE_BITS-1:0] n [0:1], keep [0:1];
    reg overran;

    // Loading
    wire [1:0] overrun;
    wire [SIZE_BITS-1:0] size [0:1];
    wire taken = in_valid && in_ready;
    wire [SIZE_BITS:0] total = size[load_bank] + in_count;
    wire fits = !overran && !overrun[load_bank] && in_keep != 0 && in_keep <= total;
    assign in_ready = !full[load_bank] && !refused;

    // Selecting
    wire select_idle, found, accept, filter_ready, filter_done;
    wire start = full[select_bank] && !selected[select_bank] && select_idle;
    wire [WIDTH-1:0] threshold;
    wire [SIZE_BITS-1:0] ties;
    wire [ROW_BITS-1:0] select_row, filter_row;
    wire [LANES*WIDTH-1:0] buffer [0:1];
    assign accept = found && filter_ready;

    always @(posedge clk)
        if (reset) begin
            load_bank <= 0;
            select_bank <= 0;
            filter_bank <= 0;
            full <= 0;
            selected <= 0;
            overran <= 0;
            refused <= 0;
        end else begin
            refused <= taken && in_last && !fits;
            if (taken) overran <= !in_last && (overran || overrun[load_bank]);
            if (taken && in_last && fits) begin
                full[load_bank] <= 1;
                n[load_bank] <= total;
                keep[load_bank] <= in_keep;
                load_bank <= !load_bank;
            end
            if (accept) begin
                selected[select_bank] <= 1;
                filter_bank <= select_bank;
                select_bank <= !select_bank;
            end
            if (filter_done) begin
                full[filter_bank] <= 0;
                selected[filter_bank] <= 0;
            end
        end

    genvar b;
    generate
        for (b = 0; b < 2; b = b + 1) begin : bank
            wire cleared = refused && load_bank == b && size[b] != 0;
            survivor_fifo #(.LANES(LANES), .DEPTH(DEPTH), .WIDTH(WIDTH)) values (
                .clk(clk), .reset(reset || cleared), .turn(start && select_bank == b),
                .push(taken && load_bank == b), .push_count(in_count), .push_data(in_data),
                .overrun(overrun[b]), .size(size[b]),
                .read_row(selected[b] ? filter_row : select_bank == b ? select_row : {ROW_BITS{1'b0}}),
                .row(buffer[b]));
        end
    endgenerate

    quick_select #(
        .LANES(LANES), .DEPTH(DEPTH), .WIDTH(WIDTH), .SHIFT_REGISTERS(SHIFT_REGISTERS), .RANDOM_BITS(RANDOM_BITS)
    ) select (
        .clk(clk), .reset(reset), .start(start), .n(n[select_bank]), .keep(keep[select_bank]), .idle(select_idle),
        .buffer_row(select_row), .buffer_data(buffer[select_bank]), .random(random), .draw(draw),
        .found(found), .accept(accept), .threshold(threshold), .ties(ties));

    winner_filter #(.LANES(LANES), .DEPTH(DEPTH), .WIDTH(WIDTH)) filter (
        .clk(clk), .reset(reset), .start(accept), .ready(filter_ready), .n(n[select_bank]), .threshold(threshold),
        .ties(ties), .buffer_row(filter_row), .buffer_data(buffer[filter_bank]), .done(filter_done),
        .out_valid(out_valid), .out_last(out_last), .out_count(out_count), .out_data(out_data));
endmodule

`default_nettype wire
