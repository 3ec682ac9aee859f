"""Hand-written tools: `# name | description | default answer`, `@ parameter | kind | description`, then requests.

`?` before a parameter name makes it optional: `+` lines after the requests add it to a request.
The answer line (`=`) is how the assistant reports the result; `{r}` is the result's value, `~` names the result key and kind.
"""

TOOL_TEXT = """
# get_weather | Get the weather of a city
@ city | city | Name of the city
? unit | enum:celsius,fahrenheit | Temperature unit
> What is the weather [like |]in {city}[ today|]?
> How warm is it in {city}[ right now|]?
> [Tell me|I need|Check] the weather [in|for] {city}[, please|].
> Will I need a coat in {city}?
+ unit | Use {unit}. | In {unit}, please. | I want it in {unit}.
~ temperature | count
= The temperature in {city} is {r} degrees.
# book_table | Book a table in a restaurant
@ restaurant | venue | Name of the restaurant
@ guests | small | Number of guests
@ date | date | Date as YYYY-MM-DD
? time | time | Time as HH:MM
> [Book|Reserve] a table for {guests} at {restaurant} on {date}.
> We are {guests} people and want to eat at {restaurant} on {date}.
> [Can|Could] you get [us|me] a table at {restaurant} on {date} for {guests}?
+ time | At {time}, please. | We come at {time}. | The time is {time}.
~ confirmation | code
= The table at {restaurant} is booked. The confirmation is {r}.
# send_email | Send an e-mail to someone
@ to | email | Address of the recipient
@ subject | title | Subject line
? body | phrase | Text of the message
> [Send|Write] an e-mail to {to} with the subject {subject}.
> [Mail|Write to] {to}, subject {subject}.
> {to} should get a mail [about|called|titled] {subject}.
+ body | The text is {body}. | Write: {body}. | It should say {body}.
~ message_id | code
= The e-mail to {to} was sent with id {r}.
# add | Add two numbers
@ a | count | First number
@ b | count | Second number
> What is {a} plus {b}?
> Add {a} and {b}.
> [Calculate|Work out] {a} + {b}.
> The sum of {a} and {b}[, please|]?
~ result | count
= The result is {r}.
# multiply | Multiply two numbers
@ a | small | First number
@ b | small | Second number
> What is {a} times {b}?
> Multiply {a} by {b}.
> [Calculate|Work out] {a} * {b}.
~ result | count
= The result is {r}.
# search_flights | Find flights between two cities
@ origin | city | City of departure
@ destination | city | City of arrival
@ date | date | Day of travel as YYYY-MM-DD
? passengers | small | Number of passengers
> [Find|Search|Show me] [flights|a flight] from {origin} to {destination} on {date}.
> I want to fly from {origin} to {destination} on {date}.
> On {date} I must [get|fly|travel] from {origin} to {destination}.
> How do I get to {destination} from {origin} by plane on {date}?
+ passengers | We are {passengers}. | For {passengers} people. | {passengers} passengers.
~ flight | code
= The flight from {origin} to {destination} is {r}.
# set_alarm | Set an alarm clock
@ time | time | Time as HH:MM
? label | title | Name of the alarm
> Wake me [up |]at {time}.
> Set an alarm [for|at] {time}.
> I have to get up at {time}.
+ label | Call it {label}. | The name is {label}.
~ alarm_id | code
= The alarm for {time} is set.
# create_event | Put an event into the calendar
@ title | title | Title of the event
@ date | date | Date as YYYY-MM-DD
? start | time | Start time as HH:MM
? minutes | minutes | Length in minutes
> [Put|Add] {title} [into|to] my calendar on {date}.
> [Create|Make] an event called {title} on {date}.
> {title} is on {date}, [please note it|put it in the calendar].
+ start | It starts at {start}. | Begin at {start}.
+ minutes | It takes {minutes}. | Plan {minutes}.
~ event_id | code
= The event {title} is in the calendar.
# get_stock_price | Get the price of a share
@ company | company | Name of the company
> What is the [stock|share] price of {company}?
> How much is a share of {company}[ now|]?
> [Check|Look up] the stock of {company}.
~ price | money
= A share of {company} costs {r}.
# translate_text | Translate a text into another language
@ text | phrase | Text to translate
@ language | country | Target language or country
> Translate {text} [into|to] the language of {language}.
> How do you say {text} in {language}?
> What is {text} called in {language}?
~ translation | invented
= In {language} it is {r}.
# convert_currency | Convert an amount of money
@ amount | decimal | Amount to convert
@ source | enum:USD,EUR,GBP,JPY,NOK | Currency of the amount
@ target | enum:USD,EUR,GBP,JPY,NOK | Currency to convert to
> Convert {amount} from {source} to {target}.
> [How much|What] is {amount} in {target} if it is given in {source}?
> Change {amount} ({source}) into {target}.
~ value | decimal
= That is {r} {target}.
# play_music | Play a song or an album
@ title | title | Song or album
? artist | person | Artist
? volume | percent | Volume in percent
> Play {title}.
> I want to [hear|listen to] {title}.
> [Start|Put on] {title}, please.
+ artist | It is by {artist}. | By {artist}.
+ volume | At {volume} volume. | Set the volume to {volume}.
~ status | code
= Now playing {title}.
# find_restaurant | Find a restaurant in a city
@ city | city | City to search in
@ food | dish | What to eat
? max_price | money | Highest price
> Where can I eat {food} in {city}?
> Find [me |]a restaurant with {food} in {city}.
> I am in {city} and hungry for {food}.
+ max_price | Not more than {max_price}. | At most {max_price}.
~ restaurant | venue
= You can eat {food} at {r}.
# track_order | Look up where an order is
@ order_id | code | Number of the order
> Where is [my order|order|parcel] {order_id}?
> Track {order_id}[ for me|].
> Has order {order_id} been shipped?
> What is the status of order {order_id}?
~ status | enum:shipped,delivered,packed,lost
= Order {order_id} is {r}.
# cancel_order | Cancel an order
@ order_id | code | Number of the order
? reason | phrase | Why it is cancelled
> Cancel [order |]{order_id}.
> I do not want order {order_id} any more.
> Please [stop|call off|drop] order {order_id}.
+ reason | The reason is {reason}. | Because of {reason}.
~ refund | money
= Order {order_id} is cancelled. You get {r} back.
# turn_on_light | Switch a light on
@ room | phrase | Room of the light
? brightness | percent | Brightness in percent
? color | color | Color of the light
> [Turn|Switch] on the light in the {room}.
> It is too dark in the {room}.
> Light in the {room}, please.
+ brightness | At {brightness}. | Brightness {brightness}.
+ color | Make it {color}. | In {color}.
~ state | code
= The light in the {room} is on.
# set_temperature | Set the heating of a room
@ room | phrase | Room to heat
@ degrees | small | Degrees
> Set the {room} to {degrees} degrees.
> I want {degrees} degrees in the {room}.
> Heat the {room} to {degrees} degrees.
~ state | code
= The {room} is set to {degrees} degrees.
# get_user | Look up a user by name
@ name | person | Full name of the user
> Who is {name}?
> [Find|Look up|Show] the user {name}.
> Do we have an account for {name}?
~ user_id | code
= The user {name} has the id {r}.
# search_products | Search the shop
@ query | product | What to look for
? max_price | money | Highest price
? color | color | Color
> [Find|Search|Show me] [a |]{query}.
> Do you have [a |]{query}?
> I am looking for [a |]{query}.
+ max_price | It should not cost more than {max_price}. | Up to {max_price}.
+ color | In {color}. | The color should be {color}.
~ product_id | code
= I found {query} with the number {r}.
# get_population | Get the number of people in a city
@ city | city | Name of the city
> How many people live in {city}?
> What is the population of {city}?
> How big is {city}?
~ population | count
= {r} people live in {city}.
# get_distance | Get the distance between two places in km
@ start | city | Start
@ end | city | End
> How far is it from {start} to {end}?
> What is the distance between {start} and {end}?
> Distance from {start} to {end}?
~ km | count
= It is {r} km from {start} to {end}.
# add_contact | Save a contact
@ name | person | Full name
@ phone | phone | Phone number
? email | email | E-mail address
> Save the number of {name}: {phone}.
> Add {name} to my contacts, phone {phone}.
> {name} has the number {phone}, please save it.
+ email | The e-mail is {email}. | Mail: {email}.
~ contact_id | code
= {name} was saved.
# create_ticket | Open a support ticket
@ title | title | Short title
@ priority | enum:low,medium,high | Priority
? reporter | person | Who reports it
> Open a ticket [called|titled] {title} with {priority} priority.
> [Create|File] a {priority} priority ticket: {title}.
> There is a problem: {title}. Priority {priority}.
+ reporter | Reported by {reporter}. | The reporter is {reporter}.
~ ticket_id | code
= The ticket {r} is open.
# get_time | Get the current time of a city
@ city | city | Name of the city
> What time is it in {city}?
> How late is it in {city}?
> [Tell me|Give me] the time in {city}.
~ time | time
= It is {r} in {city}.
# start_timer | Start a timer
@ minutes | minutes | Minutes to count down
> Start a timer for {minutes}.
> Remind me in {minutes}.
> Set a timer: {minutes}.
~ timer_id | code
= The timer runs for {minutes}.
# rent_car | Rent a car
@ city | city | Where to pick it up
@ start_date | date | First day as YYYY-MM-DD
@ days | small | Number of days
? size | enum:small,medium,large | Size of the car
> I need a car in {city} from {start_date} for {days} days.
> Rent [me |]a car in {city} for {days} days, starting {start_date}.
> From {start_date} I will be in {city} for {days} days and need a car.
+ size | A {size} one. | The size should be {size}.
~ booking | code
= Your car in {city} is booked under {r}.
# get_recipe | Look up a recipe
@ dish | dish | Name of the dish
? servings | small | Number of servings
> How do I [make|cook] {dish}?
> [Give me|Find] a recipe for {dish}.
> I want to cook {dish}.
+ servings | For {servings} people. | It should serve {servings}.
~ minutes | minutes
= {dish} takes {r} minutes.
# transfer_money | Transfer money to someone
@ recipient | person | Who gets the money
@ amount | money | Amount
? note | phrase | Reference
> Send {amount} to {recipient}.
> [Pay|Transfer] {recipient} {amount}.
> {recipient} should get {amount} from me.
+ note | The reference is {note}. | Note: {note}.
~ transaction | code
= {amount} went to {recipient}.
# lookup | Look up a word or a name in the encyclopedia
@ term | text | Word or name
> [Look up|What does the encyclopedia say about|Find out about] {term}.
> What is {term}?
> Tell me about {term}.
~ article | phrase
= {term} is a {r}.
# read_file | Read a file
@ path | url | Path or address of the file
> [Open|Read|Show me] {path}.
> What is in {path}?
~ lines | count
= {path} has {r} lines.
# schedule_visit | Make an appointment with a doctor
@ doctor | last | Name of the doctor
@ date | date | Date as YYYY-MM-DD
@ time | time | Time as HH:MM
> [Make|I need] an appointment with Dr. {doctor} on {date} at {time}.
> Can I see Dr. {doctor} on {date} at {time}?
> Dr. {doctor}, {date}, {time}, please [book it|make the appointment].
~ confirmation | code
= You see Dr. {doctor} on {date}. The confirmation is {r}.
# count_words | Count the words of a text
@ text | phrase | The text
> How many words are in "{text}"?
> Count the words: {text}
~ words | small
= There are {r} words.
# rate_movie | Give stars to a movie
@ movie | title | Title of the movie
@ stars | rating | One to five
> Rate {movie} with {stars}.
> I give {movie} {stars}.
> {movie} gets {stars} from me.
~ average | decimal
= The average of {movie} is now {r}.
# calculate | Work out an arithmetic expression
@ expression | expression | The expression
> What is {expression}?
> [Calculate|Compute|Work out] {expression}.
> {expression} = ?
~ result | count
= The result is {r}.
# order_pizza | Order a pizza
@ size | enum:small,medium,large | Size
@ toppings | list:food | Toppings
@ address | street | Where to deliver
> [Order|I want|Get me] a {size} pizza with {toppings} to {address}.
> A {size} pizza with {toppings}, please. I live at {address}.
~ minutes | minutes
= The pizza comes in {r} minutes.
# invite | Invite people to an event
@ event | title | Name of the event
@ guests | list:person | Names of the guests
> Invite {guests} to {event}.
> {guests} should come to {event}.
> Send invitations for {event} to {guests}.
~ sent | small
= The invitations for {event} were sent.
# add_to_list | Add things to the shopping list
@ items | list:food | Things to buy
> [Add|Put] {items} [to|on] [my|the] [shopping |]list.
> We need {items}.
> I have to buy {items}.
~ count | small
= The list has {r} things now.
"""
